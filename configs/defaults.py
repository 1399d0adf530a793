"""Every key of a run with its default value, unit, meaning and source; the defaults are the paper's MARS recipe."""

from yacs.config import CfgNode

_C = CfgNode()

# --------------------------------------------------------------------------- model
_C.MODEL = CfgNode()  # network, its weights, and the weights of its losses
_C.MODEL.NAME = "ViT-B-16"  # 'ViT-B-16', 'ViT-L-14', 'RN50', or timm's name of a CLIP ViT or ResNet, architecture.tag
_C.MODEL.PRETRAIN_CHOICE = "openai"  # 'openai': OpenAI's weights; 'timm': those of MODEL.NAME's tag; 'none': no weights
_C.MODEL.PRETRAIN_PATH = ""  # file of them in OpenAI's, open_clip's or timm's names, or its folder; empty: download
_C.MODEL.STRIDE_SIZE = [16, 16]  # pixels [vertical, horizontal] between patches; [12, 12] gives overlapping patches
_C.MODEL.SIE_CAMERA = True  # add a learned camera embedding to the class token (method: SIE)
_C.MODEL.SIE_COE = 1.0  # factor of the camera embedding
_C.MODEL.SIE_UNSEEN = "off"  # cameras never trained on: 'off' (no embedding) or 'mean' (mean of the trained ones)
_C.MODEL.ID_LOSS_WEIGHT = 0.25  # weight of the three clip-level cross-entropies (the frame term stands outside it)
_C.MODEL.TRIPLET_LOSS_WEIGHT = 1.0  # weight of the triplet terms
_C.MODEL.V2M_LOSS_WEIGHT = 1.0  # weight of the video-to-memory term (Eq. 14); the release calls it I2T_LOSS_WEIGHT
_C.MODEL.IF_LABELSMOOTH = True  # label smoothing 0.1 in every cross-entropy, the frame term too
_C.MODEL.TRIPLET_PENULTIMATE = False  # one more triplet term: the class token before a ViT's last block (CLIP-ReID)
_C.MODEL.GRAD_CHECKPOINT = False  # recompute the encoder's blocks in the backward pass: less memory, more time
_C.MODEL.MEMORY = "clip"  # what v_p is compared with: 'clip' (CLIP-Memory), 'text' (learned prompts), 'none' (no V2M)
_C.MODEL.TEMPORAL = "TMD"  # 'TMD', 'TAP' (no temporal branch), or a head of model/temporal_heads.py (Table 5)
_C.MODEL.TMD = CfgNode()  # parts of temporal memory diffusion (MODEL.TEMPORAL 'TMD')
_C.MODEL.TMD.TMC = True  # temporal memory construction; alone, its memory tokens are the frame features
_C.MODEL.TMD.MD = True  # memory diffusion; alone, its block sees the frame's tokens without a memory token
_C.MODEL.SSP = CfgNode()  # sequence-specific prompt
_C.MODEL.SSP.ENABLED = True  # False: v_p is compared with the memory itself
_C.MODEL.SSP.VARIANT = "full"  # 'full': release and the authors' MARS weights; 'simple': paper's figure, LS-VID, iLIDS
_C.MODEL.SSP.LAYERS = 2  # decoder layers of SSP (paper's Table 6 tries 1 to 4)
_C.MODEL.ENCODER = CfgNode()  # sizes of an encoder from scratch (PRETRAIN_CHOICE 'none'); 0: as MODEL.NAME has it
_C.MODEL.ENCODER.WIDTH = 0  # channels of a token (D), a multiple of 64
_C.MODEL.ENCODER.DEPTH = 0  # transformer blocks
_C.MODEL.ENCODER.HEADS = 0  # attention heads, a divisor of WIDTH; 0: WIDTH / 64
_C.MODEL.ENCODER.PATCH = 0  # pixels, side of a patch
_C.MODEL.ENCODER.EMBED = 0  # channels after the projection (E), a multiple of 64
_C.MODEL.ENCODER.TEXT_DEPTH = 0  # transformer blocks of the text tower (MODEL.MEMORY 'text')

# --------------------------------------------------------------------------- input
_C.INPUT = CfgNode()  # frames, clips and augmentation
_C.INPUT.SIZE_TRAIN = [256, 128]  # pixels [height, width]
_C.INPUT.SIZE_TEST = [256, 128]  # pixels [height, width]; must equal SIZE_TRAIN (one grid of position embeddings)
_C.INPUT.SEQ_LEN = 8  # frames per clip (T)
_C.INPUT.INTERPOLATION = "bilinear"  # resize of training frames: 'bilinear' or 'bicubic' (CLIP-ReID); tests: bilinear
_C.INPUT.PROB = 0.5  # probability of a horizontal flip, decided once per clip
_C.INPUT.PADDING = 0  # black pixels around a frame before a random crop back to its size, one crop for a whole clip
_C.INPUT.RE_PROB = 0.5  # probability of random erasing, decided per frame
_C.INPUT.RE_MODE = "colour"  # 'colour': one per box of 2-20 %; 'pixel': noise on normalised frames, 2-33 % (CLIP-ReID)
_C.INPUT.RE_LEGACY = False  # True: paste the erased patch at (its width, its height) as the release does
_C.INPUT.PIXEL_STATISTICS = "auto"  # 'keys': the next two; 'weights': those of MODEL.NAME; 'auto': with 'timm' weights
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]  # RGB in [0, 1]; the release uses these whatever its YAML says
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]  # RGB in [0, 1]

# --------------------------------------------------------------------------- data
_C.DATASETS = CfgNode()  # what is read, and from where
_C.DATASETS.NAMES = "MARS"  # MARS, LS-VID, iLIDS-VID; images: Market1501, MSMT17; own data: folder, manifest, video
_C.DATASETS.ROOT_DIR = "your_dataset_dir"  # the data set's own folder or its parent
_C.DATASETS.SPLIT = "0"  # iLIDS-VID: '0' to '9', or 'all' for ten models in OUTPUT_DIR/split0..9 and their mean
_C.DATASETS.TRAIN_HALF = "last"  # iLIDS-VID: half of a split to train on: 'last' (literature) or 'first' (release)
_C.DATASETS.TRAIN_ITEMS = "auto"  # 'tracklets', 'chunks LENGTH', 'windows LENGTH STEP' (frames); 'auto': as the authors
_C.DATASETS.EXCLUDE = ""  # file of frames to leave out, as datasets.check --fix-list writes it
_C.DATASETS.PACK = ""  # one LMDB file with all frames, by datasets.pack; empty: frames are read from their files
_C.DATASETS.OUTSIDE = "refuse"  # rows of manifest and video that name files outside of the CSV's folder: or 'allow'
_C.DATASETS.ON_BAD_FRAME = "error"  # a frame that cannot be read: 'error', or 'skip': the nearest one of its tracklet
_C.DATASETS.BAD_FRAME_LIMIT = 100  # files that ON_BAD_FRAME 'skip' may replace in a run; 0: any number
_C.DATASETS.VAL_FRACTION = 0.1  # share of training identities held out when SOLVER.SELECT_BY is 'val'
_C.DATASETS.CACHE_DIR = ""  # unpacked archives, crops, features of the memory pass; empty: OUTPUT_DIR/cache

_C.DATALOADER = CfgNode()  # loader processes and batches
_C.DATALOADER.NUM_WORKERS = 8  # loader processes; 0 decodes in the main process
_C.DATALOADER.NUM_INSTANCE = 4  # tracklets per identity in a batch (K)

# --------------------------------------------------------------------------- training
_C.SOLVER = CfgNode()  # training
_C.SOLVER.SEED = 1234  # seed of weights, batches, frames and augmentation
_C.SOLVER.IMS_PER_BATCH = 16  # clips per batch (P x K)
_C.SOLVER.MAX_EPOCHS = 80  # epochs
_C.SOLVER.BASE_LR = 5e-6  # learning rate of Adam before its factors
_C.SOLVER.BIAS_LR_FACTOR = 2.0  # factor of the learning rate of parameters with 'bias' in their name
_C.SOLVER.WEIGHT_DECAY = 1e-4  # L2 inside Adam, all parameters but biases
_C.SOLVER.WEIGHT_DECAY_BIAS = 1e-4  # L2 inside Adam, biases
_C.SOLVER.LARGE_FC_LR = True  # x10 for the classifier shared by v_t and the frame features
_C.SOLVER.LARGE_PROMPT_LR = True  # x10 for SSP and TMD; False is what the release does by accident
_C.SOLVER.MARGIN = 0.3  # margin of the batch-hard triplet loss (Euclidean distance)
_C.SOLVER.WARMUP_EPOCHS = 10  # epochs of linear warm-up; the release calls this WARMUP_ITERS but steps once per epoch
_C.SOLVER.WARMUP_FACTOR = 0.1  # factor of the learning rate at the first epoch
_C.SOLVER.STEPS = [30, 50, 70]  # rising epochs (from 0) at which the learning rate is multiplied by GAMMA; [] for none
_C.SOLVER.GAMMA = 0.1  # factor at each of STEPS
_C.SOLVER.AMP = "auto"  # 'auto': bf16 where the GPU has it, else fp16, off on CPU; 'bf16'; 'fp16'; 'off'
_C.SOLVER.MEMORY_PRECISION = "tf32"  # of the pass over training items (CLIP-Memory, text features), as TEST.PRECISION
_C.SOLVER.ACCUM_STEPS = 1  # parts of a batch that pass the network one after the other; losses see all of it
_C.SOLVER.COMPILE = False  # torch.compile for the training pass: same results but for rounding, minutes at the start
_C.SOLVER.DETERMINISTIC = False  # same seed and machine, same weights bit for bit, on a GPU too; slower there
_C.SOLVER.LOG_PERIOD = 50  # steps between two log lines of losses, and between two points of TensorBoard's curves
_C.SOLVER.TENSORBOARD = False  # write TensorBoard's events to OUTPUT_DIR/tensorboard while training
_C.SOLVER.SAVE_EVERY_STEPS = 0  # last.pth within an epoch too, after every so many steps; 0: after each epoch only
_C.SOLVER.ON_NONFINITE = "error"  # a step whose loss or gradient is inf or nan: 'error', or 'skip': without its update
_C.SOLVER.NONFINITE_LIMIT = 10  # steps of a run that ON_NONFINITE 'skip' may leave out
_C.SOLVER.SELECT_BY = "test"  # best.pth by mAP + Rank-1 on 'test' (as the release) or 'val'; 'last': the last epoch
_C.SOLVER.TEXT = CfgNode()  # first stage of the text baseline (MODEL.MEMORY 'text'): prompts against frozen encoders
_C.SOLVER.TEXT.MAX_EPOCHS = 120  # epochs over the features of all training tracklets
_C.SOLVER.TEXT.BATCH_SIZE = 64  # tracklet features per step
_C.SOLVER.TEXT.BASE_LR = 3.5e-4  # learning rate of Adam after the warm-up, falling along a cosine to MIN_LR
_C.SOLVER.TEXT.MIN_LR = 1e-6  # learning rate that the cosine ends at
_C.SOLVER.TEXT.WARMUP_EPOCHS = 5  # epochs of linear warm-up from WARMUP_LR
_C.SOLVER.TEXT.WARMUP_LR = 1e-5  # learning rate that the warm-up starts from
_C.SOLVER.TEXT.WEIGHT_DECAY = 1e-4  # L2 inside Adam
_C.SOLVER.EVAL_PERIOD = 2  # epochs between two tests during training; the last epoch is always tested

# --------------------------------------------------------------------------- test
_C.TEST = CfgNode()  # tests, of train-main.py and of eval-main.py
_C.TEST.WEIGHT = ""  # weight file to test: ours or a published one; empty: OUTPUT_DIR/best.pth
_C.TEST.SAMPLING = "dense"  # final test: 'dense' (all frames) or 'first' (first frame of each of T chunks)
_C.TEST.EVAL_SAMPLING = "first"  # the same choice for the tests during training
_C.TEST.FRAMES_PER_BATCH = 512  # bound on frames per forward pass; clips of several tracklets share a pass
_C.TEST.PRECISION = "tf32"  # 'tf32': float32, with products in TF32 where the GPU has them; 'float32'; 'bf16'; 'fp16'
_C.TEST.NECK_FEAT = "before"  # retrieval feature [v_g, v_p, v_t]: 'before' or 'after' the BNNecks
_C.TEST.FEAT_NORM = True  # L2-normalise the tracklet feature before distances
_C.TEST.GALLERY_INCLUDES_QUERY = "auto"  # 'auto': the data set's protocol; 'True'; 'False'
_C.TEST.SAME_CAMERA_FILTER = "auto"  # leave out the query's person in its camera; 'auto': where data name two cameras
_C.TEST.AP = "step"  # 'step': mean precision at the hits (papers); 'trapezoid': MARS' official rule
_C.TEST.CAMERA_PAIRS = False  # table of mAP and Rank-1 per query and gallery camera (camera_pairs.csv)
_C.TEST.DATASETS = []  # sets that eval-main.py tests in one run, as 'NAME:folder', in place of DATASETS.NAMES
_C.TEST.RE_RANKING = False  # k-reciprocal re-ranking (Zhong et al. 2017) in all tests, those during training too
_C.TEST.RE_RANKING_K1 = 50  # neighbours of the reciprocal sets; release: 50, textbook: 20
_C.TEST.RE_RANKING_K2 = 15  # neighbours of the query expansion; release: 15, textbook: 6
_C.TEST.RE_RANKING_LAMBDA = 0.3  # weight of the original distance
_C.TEST.SAVE_FEATURES = False  # write features.npz beside metrics.json
_C.TEST.SAVE_RANKS = False  # write ranks.csv: per query AP, first match and the ten nearest with distances
_C.TEST.CONTACT_SHEET = 0  # queries drawn with their five nearest into contact_sheet.png; 0: none
_C.TEST.REPORT = False  # write report/index.html: scores, curves and the ten nearest of each query on one page
_C.TEST.UNTRAINED = False  # train-main.py also gives the final test to the model before its first epoch

_C.OUTPUT_DIR = "your_output_dir"  # everything a run writes


def get_cfg() -> CfgNode:
    """A fresh, unfrozen copy of the defaults."""
    return _C.clone()

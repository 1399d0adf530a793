"""Keys, values and YAML files: a config, or one line that names the key or the file."""

import yaml
from hypothesis import strategies as st

from configs import changed_keys, get_cfg, load_cfg
from configs.command import DEFAULT_CONFIG
from configs.load import flatten
from model import check_model, pixel_statistics
from tests.fuzz.conftest import accepts
from tests.fuzz.mutations import altered, odd_texts

LEAVES = dict(flatten(get_cfg()))
keys = st.sampled_from([*LEAVES, "SOLVER", "MODEL.SSP", "SOLVER.STAGE2.STEPS", "MODEL.NECK"])
words = keys.map(lambda key: key.split(".")[-1])
plain = st.one_of(
    odd_texts, st.sampled_from(sorted({str(value) for value in LEAVES.values()})),
    st.lists(st.one_of(st.integers(), st.floats()), max_size=4).map(str),
    st.sampled_from(["1e9", "1e308", "1e-40", "2147483648", "18446744073709551615", "1e12", "-1", "0"]),
)  # fmt: skip
sections = st.recursive(
    st.one_of(plain, st.none(), st.integers(), st.lists(plain, max_size=3)),
    lambda inner: st.dictionaries(st.one_of(st.text(max_size=6), words), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def test_keys_and_values(fuzz):
    pairs = st.lists(st.tuples(keys, plain), min_size=1, max_size=3)

    def work(pairs) -> bool:
        # A contradiction may name the other key of two.
        return accepts(load_cfg, None, [text for pair in pairs for text in pair], names=(*LEAVES, "SOLVER", "MODEL"))

    fuzz(100, pairs, work)


def test_one_key_is_named(fuzz):
    """A value that is no value of its key is refused by that key."""

    def work(pair) -> bool:
        key, value = pair
        sections = {".".join(key.split(".")[:-1]), key}
        return accepts(load_cfg, None, [key, value], names=(*sections,))

    fuzz(60, st.tuples(st.sampled_from(list(LEAVES)), plain), work)


def test_names_of_models(fuzz):
    names = st.one_of(
        odd_texts,
        st.tuples(
            st.sampled_from(["vit_base_patch16_clip_224", "resnet50_clip", "vit_large_patch14_clip_336", "ViT-B-16"]),
            st.sampled_from(["", ".", ".openai", ".laion2b", "_ft", ".openai.x", "\n", ".."]),
        ).map("".join),
    )  # fmt: skip

    def work(drawn) -> bool:
        name, choice = drawn
        cfg = get_cfg()
        cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_CHOICE = name, choice
        return accepts(lambda: (check_model(cfg), pixel_statistics(cfg)), names=("MODEL.NAME", "MODEL.STRIDE_SIZE"))

    fuzz(30, st.tuples(names, st.sampled_from(["openai", "timm", "none"])), work)


def test_yaml_files(fuzz, tmp_path):
    path = tmp_path / "study.yml"
    text = DEFAULT_CONFIG.read_text(encoding="utf-8")
    whole = altered(text.encode(), text=True)
    made = st.dictionaries(st.sampled_from(sorted(get_cfg())), sections, max_size=4).map(
        lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    )

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        return accepts(load_cfg, path, names=(path.name, *LEAVES))

    fuzz(60, st.one_of(whole, made), work)


def test_configs_of_old_runs(fuzz):
    dumped = get_cfg().dump()

    def work(content: bytes) -> bool:
        try:
            changed_keys(content.decode("utf-8", "replace"), get_cfg())
        except ValueError:
            return False
        return True

    fuzz(30, altered(dumped.encode(), text=True), work)

"use strict";
(() => {
const $ = id => document.getElementById(id);
const root = document.documentElement;

// Light and dark: the system's choice until the switch is used; a browser may refuse to remember it.
const remember = (...value) => { try { return value.length ? localStorage.setItem("report-theme", value[0]) : localStorage.getItem("report-theme"); } catch { return null; } };
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.style.colorScheme || (systemDark.matches ? "dark" : "light");
root.style.colorScheme = remember() || "";
$("theme").onclick = () => { root.style.colorScheme = theme() === "dark" ? "light" : "dark"; remember(root.style.colorScheme); };

// Tips of the charts.
const tip = $("tip");
document.addEventListener("pointermove", event => {
  const owner = event.target.closest?.("[data-tip]");
  tip.hidden = !owner;
  if (!owner) return;
  tip.textContent = owner.dataset.tip;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(6, Math.min(event.clientX - width / 2, innerWidth - width - 6));
  const top = event.clientY - height - 14;
  tip.style.transform = `translate(${left}px, ${top < 6 ? event.clientY + 18 : top}px)`;
});
document.addEventListener("pointerleave", () => { tip.hidden = true; });

// What can be scrolled aside fades out at its right edge until the end is reached.
const fade = box => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
const sized = new ResizeObserver(entries => { for (const { target } of entries) fade(target.closest(".scroll")); });
for (const box of document.querySelectorAll(".scroll")) {
  box.addEventListener("scroll", () => fade(box), { passive: true });
  sized.observe(box);
  sized.observe(box.firstElementChild);
}

if (!$("list")) return;
const data = JSON.parse($("data").textContent);
// One line of base64 for each tracklet; a picture is decoded when its row comes near the screen.
const coded = $("strips").textContent;
const strips = coded ? coded.split("\n") : [];
const T = data.tracklets.map(([name, person, camera, frames, shown]) => ({ name, person: data.people[person], camera: data.cameras[camera], frames, shown }));
const Q = data.queries.map(([tracklet, ap, inp, first, right, nearest], number) => ({
  number, tracklet, ap, inp, first, right, nearest, own: T[tracklet],
  find: `${T[tracklet].person}\n${T[tracklet].name}`.toLowerCase(), open: false, row: null,
}));
const percent = value => value === null ? "–" : (100 * value).toFixed(2);

function make(tag, style, ...children) {
  const element = document.createElement(tag);
  if (style) element.className = style;
  element.append(...children.filter(child => child !== null && child !== undefined && child !== ""));
  return element;
}
function badge(isRight) {
  const span = make("span", `badge ${isRight ? "right" : "wrong"}`);
  span.setAttribute("role", "img");
  span.setAttribute("aria-label", isRight ? "right" : "wrong");
  span.innerHTML = `<svg><use href="#${isRight ? "right" : "wrong"}"/></svg>`;
  return span;
}
const camera = t => t.camera ? `camera ${t.camera}` : "";
function picture(number) {
  if (!strips[number]) return null;
  const image = make("img");
  image.decoding = "async";
  image.alt = `person ${T[number].person}${T[number].camera ? ", " + camera(T[number]) : ""}`;
  image.src = "data:image/webp;base64," + strips[number];
  return image;
}
function thumb(number, isRight, lines) {
  const image = picture(number), t = T[number];
  if (image && t.shown > 1) image.style.objectPosition = `${100 * Math.floor(t.shown / 2) / (t.shown - 1)}% 0`;
  const box = make("div", "pic", image || make("div", "blank"));
  const cell = make("div", isRight === null ? "thumb" : `thumb ${isRight ? "is-right" : "is-wrong"}`, isRight === null ? null : badge(isRight), box,
    ...lines.filter(line => line !== null));
  cell.title = [t.name, `person ${t.person}`, camera(t), t.frames ? `${t.frames} frames` : ""].filter(Boolean).join("\n");
  return cell;
}
// Person and camera on one line where there is room, else on two (page.css).
const caption = (t, last) => [make("p", "id", t.person, t.camera ? make("span", "beside", ` · c${t.camera}`) : ""),
  t.camera ? make("p", "below", `c${t.camera}`) : null, make("p", "", last)];
function head(q) {
  const ap = make("b", "", percent(q.ap), q.ap === null ? null : make("small", "", " % AP"));
  const facts = [make("span", "who", `person ${q.own.person}`), make("span", "", camera(q.own)),
    make("span", "", q.first ? `first match at ${q.first}` : "no true match"), make("span", "name2", q.inp === null ? "" : `INP ${percent(q.inp)} %`)];
  const about = make("div", "about", ap, ...facts.filter(line => line.textContent), make("span", "more", q.open ? "close" : "open"));
  const ten = make("div", "ten", ...q.nearest.map(([number, distance, isRight]) => thumb(number, !!isRight, caption(T[number], distance.toFixed(3)))));
  return make("div", "head", about, thumb(q.tracklet, null, caption(q.own, "query")), ten);
}
function film(number) {
  const image = picture(number);
  return make("span", "film", image || make("span", "blank", "no picture"));
}
function pairs(entries) {
  return make("dl", "", ...entries.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));
}
function about(t) { return [`person ${t.person}`, camera(t)].filter(Boolean).join(", "); }
function file(t) { return make("p", "file", t.name, t.frames ? ` (${t.frames} ${t.frames === 1 ? "frame" : "frames"})` : ""); }
function films(q) {
  const entries = [["AP", q.ap === null ? "–" : `${percent(q.ap)} %`], ["INP", q.inp === null ? "–" : `${percent(q.inp)} %`], ["first match", q.first || "none"]];
  if (q.right >= 0) entries.push(["true matches", q.right]);
  const own = make("div", "own", film(q.tracklet), make("div", "", make("p", "line1", `Query: ${about(q.own)}`), pairs(entries), file(q.own)));
  const rest = q.nearest.map(([number, distance, isRight], place) => make("div", isRight ? "is-right" : "is-wrong",
    make("p", "line1", badge(!!isRight), make("span", "whose", `${place + 1}. ${about(T[number])}`), make("span", "dist", distance.toFixed(6))), film(number), file(T[number])));
  return make("div", "films", own, ...rest);
}
function fill(q) {
  q.row.replaceChildren(head(q), ...(q.open ? [films(q)] : []));
  q.row.classList.toggle("open", q.open);
  q.row.setAttribute("aria-expanded", q.open);
}
const near = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const q = Q[target.dataset.number];
    if (isIntersecting && !target.firstChild) fill(q);
    else if (!isIntersecting && !q.open) target.replaceChildren();
  }
}, { rootMargin: "900px 0px" });

$("list").classList.toggle("bare", !strips.length);
$("list").classList.toggle("single", T.every(t => t.shown < 2) && strips.length > 0);
let shown = [], current = -1;
function row(q) {
  if (q.row) return q.row;
  q.row = make("li", "query");
  q.row.dataset.number = q.number;
  q.row.tabIndex = -1;
  q.row.setAttribute("aria-label", `query ${q.number + 1}: ${about(q.own)}, AP ${percent(q.ap)} %`);
  return q.row;
}
const order = new Intl.Collator("en", { numeric: true }).compare;
const byAp = (a, b) => (a.ap === null) - (b.ap === null) || a.ap - b.ap || a.number - b.number;
const SORTS = {
  low: byAp,
  high: (a, b) => (a.ap === null) - (b.ap === null) || b.ap - a.ap || a.number - b.number,
  first: (a, b) => (a.first === 0) - (b.first === 0) || b.first - a.first || byAp(a, b),
  person: (a, b) => order(a.own.person, b.own.person) || byAp(a, b),
  camera: (a, b) => order(a.own.camera, b.own.camera) || byAp(a, b),
  data: (a, b) => a.number - b.number,
};
const people = new Set(Q.map(q => q.own.person.toLowerCase()));
function show() {
  const text = $("find").value.trim().toLowerCase(), cam = $("camera").value, result = $("result").value;
  const low = $("low").value === "" ? null : Number($("low").value) / 100, high = $("high").value === "" ? null : Number($("high").value) / 100;
  const fits = q => (!text || (people.has(text) ? q.own.person.toLowerCase() === text : q.find.includes(text)))
    && (!cam || q.own.camera === cam.slice(1))
    && (!result || (result === "none" ? q.first === 0 : result === "right" ? q.first === 1 : q.first > 1))
    && (low === null || (q.ap !== null && q.ap >= low - 1e-9)) && (high === null || (q.ap !== null && (q.ap < high - 1e-9 || high >= 1)));
  const before = shown[current];
  shown = Q.filter(fits).sort(SORTS[$("sort").value]);
  near.disconnect();
  $("list").replaceChildren(...shown.map(row));
  for (const q of shown) near.observe(q.row);
  $("count").textContent = shown.length === Q.length ? `${Q.length.toLocaleString("en")} queries` : `${shown.length.toLocaleString("en")} of ${Q.length.toLocaleString("en")}`;
  $("empty").hidden = shown.length > 0;
  before?.row.classList.remove("current");
  current = shown.indexOf(before);
  if (current >= 0) before.row.classList.add("current");
}
function select(place, focus = true) {
  if (!shown.length) return;
  shown[current]?.row.classList.remove("current");
  current = Math.max(0, Math.min(shown.length - 1, place));
  const q = shown[current];
  q.row.classList.add("current");
  if (!q.row.firstChild) fill(q);
  if (focus) q.row.focus({ preventScroll: true });
  q.row.scrollIntoView({ block: "nearest", behavior: "instant" });
}
function toggle(q) {
  q.open = !q.open;
  fill(q);
  if (q.open) q.row.scrollIntoView({ block: "nearest", behavior: "instant" });
}

const cameras = [...new Set(Q.map(q => q.own.camera))].filter(Boolean).sort(order);
$("camera").append(new Option("all", ""), ...cameras.map(name => new Option(name, "=" + name)));
$("camera").closest("label").hidden = !cameras.length;
$("tools").addEventListener("input", show);
$("tools").addEventListener("submit", event => event.preventDefault());
$("tools").addEventListener("reset", () => setTimeout(show));
$("list").addEventListener("click", event => {
  const target = event.target.closest(".query");
  if (!target || getSelection().toString()) return;
  select(shown.indexOf(Q[target.dataset.number]));
  if (event.target.closest(".head")) toggle(Q[target.dataset.number]);
});
$("keys").onclick = () => $("help").showModal();
document.addEventListener("click", event => {
  const bar = event.target.closest?.(".bar");
  if (bar) {
    $("tools").reset();
    $("low").value = bar.dataset.low;
    $("high").value = bar.dataset.high;
    setTimeout(() => { show(); $("queries").scrollIntoView(); });
  }
  const point = event.target.closest?.("#map [data-name]"), q = point && Q.find(one => one.own.name === point.dataset.name);
  if (q) {
    $("tools").reset();
    setTimeout(() => { show(); select(shown.indexOf(q)); if (!q.open) toggle(q); });
  }
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest?.("input, select, button, a, summary");
  if (event.key === "Escape" && field) { field.blur(); return; }
  if (field && (field.matches("input, select") || event.key === "Enter")) {
    if (event.key === "Enter" && field.id === "find") { field.blur(); select(0); }
    return;
  }
  const inList = document.activeElement?.closest("#list");
  if (event.key === "j" || (event.key === "ArrowDown" && inList)) select(current + 1);
  else if (event.key === "k" || (event.key === "ArrowUp" && inList)) select(Math.max(0, current - 1));
  else if (event.key === "Enter" && shown[current]) toggle(shown[current]);
  else if (event.key === "/") { $("find").focus(); $("find").select(); $("tools").scrollIntoView({ block: "nearest" }); }
  else if (event.key === "?") $("help").showModal();
  else return;
  event.preventDefault();
});
show();
})();

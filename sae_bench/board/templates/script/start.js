// ---- where the address points: at an SAE by the digest of its weights, or at a place on the board
const byKey = new Map(data.saes.map((sae, i) => [sae.key, i]));
const route = () => {
  const found = /^sae-([0-9a-f-]+)$/.exec(place);
  const number = found === null ? undefined : byKey.get(found[1]);
  const shown = number !== undefined;
  if (shown) detail(number);
  $("detail").hidden = !shown;
  for (const id of ["main", "filters", "top", "contents"]) $(id).hidden = shown;
  $("missing").hidden = found === null || shown;
  document.title = shown ? `${data.saes[number].name} - sae-bench` : "sae-bench: board";
  if (shown) scrollTo(0, 0);
  else if (!found && place !== "") go(place);
  if (!shown) redrawLater();
};
// To a section or a row that is on the board; whatever else a place says is nothing.
const go = (id) => {
  const target = $(id);
  if (!target || !target.matches("section, [id^='row-']") || !$("main").contains(target)) return;
  for (const row of all(".pointed")) row.classList.remove("pointed");
  if (target.tagName === "TR") {
    target.hidden = false;
    target.classList.add("pointed");
  }
  target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
};
let later;
const redrawLater = () => {
  clearTimeout(later);
  later = setTimeout(redraw, 150);
};
const restoreAll = () => {
  restoreFilters();
  restoreShown();
  $("place").replaceChildren();
  for (const name of ["x0", "y0", "x1", "y1"]) $(name).replaceChildren();
  restorePair();
  filter();
  restoreSorted();
};
addEventListener("hashchange", () => {
  if (readAddress()) restoreAll();
  else writeAddress();
  route();
});
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return; // a phone hides and shows its bars while it scrolls
  wide = innerWidth;
  redrawLater();
});
dark.addEventListener("change", redraw);
if (innerWidth < 1250) $("contents").firstElementChild.open = false;
if (innerWidth < 760) $("filters").firstElementChild.open = false;
for (const link of all("#contents a")) {
  link.addEventListener("click", () => {
    if (innerWidth < 1250) $("contents").firstElementChild.open = false;
    if (link.hash === location.hash.split("?")[0]) go(link.hash.slice(1));
  });
}
readAddress();
restoreAll();
route();

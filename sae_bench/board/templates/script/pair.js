// ---- two SAEs side by side
const pairOf = (over, a, b) => {
  const found = new Map(); // column: value, low, high, verdict of b minus a; or a reason
  for (const [first, second, column, ...made] of over.pairs) {
    if (first === a && second === b) found.set(column, made);
    if (first !== b || second !== a) continue;
    if (made.length === 1) found.set(column, made);
    else {
      const [value, low, high, verdict] = made;
      const turned = { better: "worse", worse: "better" }[verdict] || verdict;
      const minus = (one) => (one === null ? null : -one);
      found.set(column, [minus(value), minus(high), minus(low), turned]);
    }
  }
  return found;
};
const closeL0 = (a, b) => a !== null && b !== null && Math.max(a, b) <= Math.min(a, b) * data.close * (1 + 1e-9);
const inWords = (verdict) => ({ better: "B is better", worse: "B is worse", differs: "they differ" })[verdict] || verdict;
// Difference and verdict of a metric, in words; without units there is no verdict.
const compared = (column, [one, other], made, l0s, many) => {
  if (!one || !other) return ["", one === other ? "" : "measured of one alone"];
  if (one[2] === null || other[2] === null) return ["", "a figure is missing"];
  const plain = `${number(other[2] - one[2])}, no interval`;
  if (!made) return [plain, many ? "not tested: too many pairs for a page" : "not tested: no units here"];
  if (made.length === 1) return [plain, `not tested: ${made[0]}`];
  const [value, low, high, verdict] = made;
  const text = low === null ? `${number(value)}, no interval` : span(value, low, high);
  if (column.equal && !closeL0(...l0s)) return [text, "at other L0: not ranked"];
  if (low === null) return [text, "not tested"];
  return [text, inWords(verdict)];
};
const overShown = () => data.overviews.find((one) => one.key === $("pair-in").value);
const fillPair = () => {
  const over = overShown();
  const before = ["a", "b"].map((name) => $(`pair-${name}`).value || state.get(name));
  ["a", "b"].forEach((name, i) => {
    const menu = $(`pair-${name}`);
    menu.replaceChildren();
    for (const number of over ? over.saes : []) option(menu, data.saes[number].key, data.saes[number].name);
    if (!restore(menu, before[i])) menu.selectedIndex = Math.min(i, menu.options.length - 1);
  });
};
const showPair = () => {
  const menu = $("pair-in");
  const before = menu.value || state.get("in");
  menu.replaceChildren();
  for (const one of data.overviews) if (at(one) && one.saes.length > 1) option(menu, one.key, placeText(one));
  restore(menu, before);
  menu.parentElement.hidden = menu.options.length < 2;
  $("pair").hidden = menu.options.length === 0;
  for (const link of all('#contents a[href="#pair"]')) link.parentElement.hidden = menu.options.length === 0;
  if (menu.value !== before || !$("pair-a").options.length) fillPair();
  drawPair();
};
const drawPair = () => {
  const over = overShown();
  const shown = $("pair-table");
  shown.replaceChildren();
  if (!over) return;
  const [a, b] = ["a", "b"].map((name) => $(`pair-${name}`).selectedIndex);
  const saes = [a, b].map((i) => data.saes[over.saes[i]]);
  if (saes.some((sae) => sae === undefined)) return;
  if (a === b) {
    make("p", "Choose two different SAEs.", shown).className = "hint";
    return;
  }
  const found = pairOf(over, a, b);
  const l0s = [over.l0[a], over.l0[b]];
  const many = over.more && over.units[a] && over.units[b];
  const l0 = l0s.map((one) => (one === null ? "-" : number(one)));
  const trained = saes.map((sae) => sae.architecture + (sae.stored ? ` (computed as ${sae.stored})` : ""));
  const rows = [
    ["architecture", ...trained, "", ""],
    ["width", ...saes.map((sae) => String(sae.width)), "", ""],
    ["L0", ...l0, "", closeL0(...l0s) ? "about the same" : ""],
  ];
  over.columns.forEach((column, k) => {
    const cells = [over.cells[a][k], over.cells[b][k]];
    if (!cells[0] && !cells[1]) return;
    const texts = cells.map((cell) => (cell ? cell.slice(0, 2).filter(Boolean).join("\n") : ""));
    rows.push([column.heading, ...texts, ...compared(column, cells, found.get(k), l0s, many)]);
  });
  table(shown, ["metric", `A: ${saes[0].name}`, `B: ${saes[1].name}`, "B − A", ""], rows);
  for (const row of shown.querySelectorAll("tbody tr")) {
    const verdict = row.cells[4].textContent;
    if (/^B is/.test(verdict)) row.cells[4].className = verdict === "B is better" ? "better" : "worse";
    else row.cells[4].className = "soft";
  }
};
const restorePair = () => {
  for (const name of ["in", "a", "b"]) $(`pair-${name}`).replaceChildren();
};
$("pair-in").addEventListener("change", () => {
  say("in", $("pair-in").value);
  fillPair();
  drawPair();
});
for (const name of ["a", "b"]) {
  $(`pair-${name}`).addEventListener("change", () => {
    say("a", $("pair-a").value);
    say("b", $("pair-b").value);
    drawPair();
  });
}
$("pair-swap").addEventListener("click", () => {
  const [a, b] = [$("pair-a"), $("pair-b")];
  [a.selectedIndex, b.selectedIndex] = [b.selectedIndex, a.selectedIndex];
  a.dispatchEvent(new Event("change"));
});

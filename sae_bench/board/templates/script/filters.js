// ---- filters: one for all tables and plots
const FILTERS = ["suite", "model", "hook", "architecture", "width", "name"].filter((name) => $(`filter-${name}`));
const chosen = (name) => $(`filter-${name}`)?.value || "";
const kept = (sae) =>
  (!chosen("architecture") || sae.architecture === chosen("architecture")) &&
  (!chosen("width") || String(sae.width) === chosen("width")) &&
  sae.name.toLowerCase().includes(chosen("name").toLowerCase());
const at = (where) => ["suite", "model", "hook"].every((name) => !chosen(name) || where[name] === chosen(name));
const filter = () => {
  const keep = data.saes.map(kept);
  const seen = new Set();
  for (const section of listings) {
    let shown = 0;
    const here = at(section.dataset);
    for (const row of bodyOf(section).rows) {
      passed.set(row, keep[row.dataset.sae]);
      if (here && keep[row.dataset.sae]) {
        shown += 1;
        seen.add(row.dataset.sae);
      }
    }
    section.hidden = !here || shown === 0;
    limit(section);
    for (const link of all(`#contents a[href="#${section.id}"]`)) link.parentElement.hidden = section.hidden;
  }
  for (const head of all(".suite-head, .part")) {
    const own = listings.filter((section) => section.dataset.part === head.dataset.part);
    head.hidden = own.length > 0 && own.every((section) => section.hidden);
  }
  $("count").textContent = `${seen.size} of ${data.saes.length} SAEs`;
  $("reset").hidden = !FILTERS.some(chosen);
  places();
  showPair();
};
const restoreFilters = () => {
  for (const name of FILTERS) {
    const said = state.get(name) || "";
    if (name === "name") $("filter-name").value = said;
    else restore($(`filter-${name}`), said);
  }
};
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("input", () => {
  for (const name of FILTERS) say(name, chosen(name));
  filter();
});
$("reset").addEventListener("click", () => {
  for (const name of FILTERS) {
    $(`filter-${name}`).value = "";
    say(name, "");
  }
  filter();
});

// ---- long tables begin with their first rows, which also keeps sorting quick
const MOST = 100;
const MORE = 1000; // rows that a click adds to a table which is longer than that
const listings = all(".listing"); // sections with a table of SAEs
const bodyOf = (section) => section.querySelector("tbody");
const headOf = (section) => Array.from(section.querySelector("thead").rows).pop(); // below the names of groups
const passed = new WeakMap(); // row: whether the filters keep it
const limit = (section) => {
  const most = Number(section.dataset.most || MOST);
  let shown = 0;
  for (const row of bodyOf(section).rows) {
    shown += passed.get(row);
    const hidden = !passed.get(row) || shown > most;
    if (row.hidden !== hidden) row.hidden = hidden;
  }
  const button = section.querySelector(".all");
  button.hidden = shown <= most;
  button.textContent = shown - most > MORE ? `show ${MORE} more of ${shown}` : `show all ${shown}`;
};
for (const section of listings) {
  section.querySelector(".all").addEventListener("click", () => {
    section.dataset.most = Number(section.dataset.most || MOST) + MORE;
    limit(section);
  });
}

// ---- sorting: empty cells last, whichever way
const value = (cell) => {
  if (cell.dataset.v === undefined) return cell.textContent;
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
};
const order = (a, b) => (typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0) : a - b);
const sort = (section, column, way) => {
  const body = bodyOf(section);
  for (const cell of headOf(section).cells) cell.removeAttribute("aria-sort");
  headOf(section).cells[column].setAttribute("aria-sort", way);
  const sign = way === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows, (row) => [value(row.cells[column]), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * order(a, b)));
  body.append(...rows.map(([, row]) => row));
  limit(section);
};
const asWritten = listings.map((section) => Array.from(bodyOf(section).rows));
const unsorted = () =>
  listings.forEach((section, i) => {
    if (!headOf(section).querySelector("[aria-sort]")) return;
    for (const cell of headOf(section).cells) cell.removeAttribute("aria-sort");
    bodyOf(section).append(...asWritten[i]);
  });
const saySorted = () => {
  const found = listings.map((section) => {
    const cell = headOf(section).querySelector("[aria-sort]");
    return cell && `${section.id}.${cell.cellIndex}.${cell.getAttribute("aria-sort") === "ascending" ? "up" : "down"}`;
  });
  say("sort", found.filter(Boolean).join(","));
};
const restoreSorted = () => {
  unsorted();
  for (const said of (state.get("sort") || "").split(",")) {
    const found = /^([\w-]+)\.(\d{1,3})\.(up|down)$/.exec(said);
    const section = found && listings.find((one) => one.id === found[1]);
    if (!section || !headOf(section).cells[found[2]]) continue;
    sort(section, Number(found[2]), found[3] === "up" ? "ascending" : "descending");
  }
};
for (const section of listings) {
  for (const header of headOf(section).cells) {
    header.firstElementChild.addEventListener("click", () => {
      const first = header.firstElementChild.dataset.first === "up" ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      sort(section, header.cellIndex, header.getAttribute("aria-sort") === first ? other : first);
      saySorted();
    });
  }
}

// ---- a table as CSV: the rows that the filters keep, in the order shown, and the controls
// A spreadsheet takes text with such a first letter for a formula; a quote before it makes it text again.
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20\u2212]/;
const guarded = (text) => (FORMULA.test(text) || FORMULA.test(text.trimStart()) ? `'${text}` : text);
const field = (one) => {
  if (typeof one === "number") return String(one);
  const text = guarded(one);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const figure = (text) => (text === undefined || text === "" ? "" : Number(text));
const csvOf = (section) => {
  const titles = Array.from(headOf(section).cells, (cell) => cell.dataset.id || cell.textContent.trim());
  const last = titles.length - 1; // "checked"; before it the metrics, after name, architecture, width and L0
  const head = ["suite", "model", "hook", "sae", "weights_sha256", "architecture", "stored_as", "width", "l0"];
  for (const id of titles.slice(4, last)) head.push(id, `${id} low`, `${id} high`, `${id} rank`, `${id} mark`);
  const where = [section.dataset.suite, section.dataset.model, section.dataset.hook];
  const lines = [[...head, "checked"]];
  for (const row of bodyOf(section).rows) {
    if (!passed.get(row)) continue;
    const sae = data.saes[row.dataset.sae];
    const cells = Array.from(row.cells);
    const line = [...where, sae.name, sae.weights, sae.architecture, sae.stored || "", sae.width, figure(cells[3].dataset.v)];
    for (const cell of cells.slice(4, last)) {
      const [rank, mark] = ["i", ".mark"].map((one) => cell.querySelector(one)?.textContent || "");
      line.push(figure(cell.dataset.f ?? cell.dataset.v), figure(cell.dataset.l), figure(cell.dataset.h), rank, mark);
    }
    lines.push([...line, cells[last].textContent]);
  }
  for (const row of section.querySelector("tbody.controls")?.rows || []) {
    const cells = Array.from(row.cells, (cell) => cell.textContent);
    const line = [...where, cells[0], "", "", "", "", ""];
    for (const text of cells.slice(4, last)) {
      const [, low, high, mark] = /^(\S+)(?: to (\S+))?(?: (.*))?$/.exec(text) || [];
      const ends = [low, high].map((end) => (end === undefined || !isFinite(end) ? "" : Number(end)));
      line.push(high === undefined ? ends[0] : "", high === undefined ? "" : ends[0], ends[1], "", mark || "");
    }
    lines.push([...line, ""]);
  }
  return lines.map((line) => line.map(field).join(",") + "\r\n").join("");
};
for (const button of all(".csv")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const section = button.closest("section");
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([csvOf(section)], { type: "text/csv;charset=utf-8" }));
    link.download = `sae-bench-${section.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

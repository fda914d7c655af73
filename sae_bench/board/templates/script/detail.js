// ---- one SAE
const table = (parent, head, rows, kind = "") => {
  const element = make("table", undefined, make("div", undefined, parent));
  element.parentElement.className = "wide";
  element.className = kind;
  const top = make("tr", undefined, make("thead", undefined, element));
  for (const text of head) make("th", text, top);
  const body = make("tbody", undefined, element);
  for (const row of rows) {
    const line = make("tr", undefined, body);
    for (const text of row) make("td", text, line);
  }
};
const chart = (parent, spec, values, titles) => {
  const own = copy(spec);
  own.data.values = values;
  for (const [axis, title] of Object.entries(titles)) own.encoding[axis].title = title;
  const element = make("div", undefined, parent);
  element.className = "chart small";
  draw(element, own);
};
const contexts = (parent, part) => {
  let before = "";
  for (const row of part.rows) {
    if (row.group && row.group !== before) make("p", row.group, parent).className = "group";
    before = row.group;
    const line = make("p", undefined, parent);
    line.className = "context";
    if (row.caption) make("i", row.caption, line);
    row.tokens.forEach((text, i) => {
      const strength = row.strengths[i];
      const token = make(strength > 0 ? "mark" : "span", text, line);
      if (strength > 0) {
        token.style.backgroundColor = `rgba(245, 158, 11, ${0.15 + 0.75 * strength})`;
        token.title = strength.toPrecision(2);
      }
      if (i === row.marked) token.className = "marked";
    });
  }
};
const drawers = {
  table: (parent, part) => table(parent, part.head, part.rows),
  text: (parent, part) => (make("pre", part.lines.join("\n"), parent).className = "lines"),
  contexts,
  histogram: (parent, part) => {
    if (!part.bins.length) return;
    const bins = part.bins.map(([low, high, count]) => ({ low, high, count }));
    chart(parent, data.histogram, bins, { x: part.x, y: part.of });
  },
  plot: (parent, part) => {
    const points = part.series.flatMap(({ name, points }) => points.map(([x, y]) => ({ series: name, x, y })));
    if (points.length) chart(parent, data.plot, points, { x: part.x, y: part.y });
  },
};
const block = (parent, part) => {
  make("h3", part.title, parent);
  drawers[part.block](parent, part);
  if (part.more) make("p", `and ${part.more} more (the result file holds all)`, parent).className = "hint";
};
const detail = (number) => {
  const sae = data.saes[number];
  const page = $("detail");
  page.replaceChildren();
  page.className = "detail";
  make("a", "← back to the board", make("p", undefined, page)).href = "#";
  make("h1", sae.name, page);
  const stored = sae.stored ? ` (computed as ${sae.stored})` : "";
  const weights = `weights ${sae.weights.slice(0, 12)}`;
  const about = `${sae.architecture}${stored}, ${sae.width} latents, ${weights}; ${sae.format}: ${sae.source}`;
  make("p", about, page).className = "about";
  if (data.shortened) make("p", "Details are shortened to keep the page small.", page).className = "hint";
  for (const result of data.details[number]) {
    make("h2", result.title, page);
    make("p", result.about, page).className = "about";
    table(page, ["metric", "score [95 % interval]", "unit", "n", ...result.controls], result.rows, "figures");
    for (const text of result.said) make("p", text, page).className = "note";
    for (const part of result.blocks) block(page, part);
  }
};

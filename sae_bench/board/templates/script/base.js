// Text from results is only ever set as textContent; data comes from the JSON element, never from script.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
const make = (tag, text, parent) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const copy = (spec) => JSON.parse(JSON.stringify(spec));
const option = (menu, value, text) => {
  const made = make("option", text, menu);
  made.value = value;
};

// ---- figures as the tables have them: to two digits of the interval's width
const number = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
};
const span = (value, low, high) => {
  if (low === null || high === null) return number(value);
  const width = high - low;
  if (!(width > 1e-6 * Math.max(Math.abs(value), 1) && width < 1e5)) return `${number(value)} [${number(low)}, ${number(high)}]`;
  const digits = Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(width))));
  const [a, b, c] = [value, low, high].map((one) => (one === 0 ? "0" : one.toFixed(digits).replace(/^-(0\.?0*)$/, "$1")));
  return `${a} [${b}, ${c}]`;
};

// ---- charts take the room and the colours of the page
const CROWD = 300; // marks of a plot, above which it is drawn as an image and not at every letter that is typed
const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () =>
  dark.matches
    ? { text: "#c9d1da", soft: "#9aa5b1", grid: "#2c343d", line: "#aab4bf" }
    : { text: "#1c2430", soft: "#5b6470", grid: "#eceff3", line: "#374151" };
const MOST_WIDE = 620;
const room = (element) => Math.max(200, Math.min(MOST_WIDE, element.clientWidth || 420));
const themed = (spec, element) => {
  const own = copy(spec);
  const colour = colours();
  own.width = room(element);
  if (own.layer) own.height += own.width < 420 ? 90 : 60; // its legend below
  own.autosize = { type: "fit", contains: "padding" };
  own.background = "transparent";
  const axis = { gridColor: colour.grid, domainColor: colour.soft, tickColor: colour.soft, labelColor: colour.soft };
  own.config.axis = { ...own.config.axis, ...axis, titleColor: colour.text };
  own.config.legend = { labelColor: colour.text, titleColor: colour.soft, orient: "bottom", columns: own.width < 420 ? 2 : 4 };
  own.config.text = { color: colour.text };
  for (const layer of own.layer || []) if (layer.name === "frontier") layer.mark.color = colour.line;
  return own;
};
const charts = new Map(); // element: the specification that it shows, to draw it anew
const draw = (element, spec) => {
  charts.set(element, spec);
  const marks = (spec.data.values || []).length;
  // "ast": expressions are interpreted, so that the page needs no right to make code from text
  return vegaEmbed(element, themed(spec, element), {
    ast: true,
    renderer: marks > CROWD ? "canvas" : "svg", // thousands of elements would make every click wait
    actions: { export: true, source: false, compiled: false, editor: false },
  });
};
const redraw = () => {
  for (const [element, spec] of charts) {
    if (element.isConnected) draw(element, spec);
    else charts.delete(element);
  }
};

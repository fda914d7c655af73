// ---- what a plot shows beside the SAEs: bands of L0, controls, names
const SHOWN = ["names", "controls", "bands"];
const shows = (what) => $(`show-${what}`).checked;
const layerOf = (spec, name) => spec.layer.find((layer) => layer.name === name);

// ---- controls: a cross beside its SAE; one of no L0, or of all latents, is no point among them but a level
const within = (one, others) => one >= Math.min(...others) / 1.25 && one <= Math.max(...others) * 1.25;
const controlsOf = (found, axes, points) => {
  const l0 = ["x", "y"].find((name) => found.axes[axes[name]].l0);
  const other = l0 === "x" ? "y" : "x";
  const [crosses, levels] = [new Map(), new Map()];
  for (const [control, number, values] of shows("controls") ? found.controls : []) {
    const point = { control, sae: data.saes[number].name, x: values[axes.x], y: values[axes.y] };
    if (point.x === null || point.y === null || !kept(data.saes[number])) continue;
    if (!l0 || within(point[l0], points.map((one) => one[l0]))) crosses.set(`${control} ${point.x} ${point.y}`, point);
    else if (!levels.has(control)) levels.set(control, { label: control, level: point[other] });
  }
  return { l0, other, crosses: Array.from(crosses.values()), levels: Array.from(levels.values()) };
};
// Logarithmic where all SAEs are above 0, and they and their controls span more than a factor of 8.
const typeOf = (ends, more) => {
  const least = Math.min(...ends);
  if (!(least > 0)) return "linear";
  const positive = [...ends, ...more.filter((one) => one > 0)];
  return Math.max(...positive) > 8 * Math.min(...positive) ? "log" : "linear";
};
const fillControls = (spec, beside, types) => {
  const positive = (name, one) => types[name] !== "log" || one > 0;
  const { l0, other } = beside;
  beside.crosses = beside.crosses.filter((point) => positive("x", point.x) && positive("y", point.y));
  layerOf(spec, "controls").data.values = beside.crosses;
  if (!l0) return;
  beside.levels = beside.levels.filter(({ level }) => positive(other, level));
  for (const layer of ["levels", "level-names"].map((name) => layerOf(spec, name))) {
    layer.data.values = beside.levels;
    layer.encoding[other] = { ...copy(spec.encoding[other]), field: "level" };
    layer.encoding[l0] = { value: l0 === "x" ? 0 : "height" };
  }
  layerOf(spec, "levels").encoding[`${l0}2`] = { value: l0 === "x" ? "width" : 0 };
};

// ---- bands of L0
const fillBands = (spec, found, { l0, other }) => {
  const layer = layerOf(spec, "bands");
  layer.encoding = { x: { value: 0 }, y: { value: 0 } };
  if (!l0 || !shows("bands")) return;
  layer.data.values = found.bands.map(([low, high, n]) => ({ low: low * 0.985, high: high * 1.015, n }));
  layer.encoding = {
    [l0]: { ...copy(spec.encoding[l0]), field: "low" },
    [`${l0}2`]: { field: "high" },
    [other]: { value: 0 },
    [`${other}2`]: { value: l0 === "x" ? "height" : "width" },
    tooltip: [{ field: "n", title: "SAEs of about one L0, ranked among each other" }],
  };
};

// ---- names: without what all have in common, where there is room
const NAMED = 40; // SAEs, above which names would cover the marks
const shortNames = (names) => {
  const lasts = names.map((text) => text.split("/").pop() || text);
  const same = (one) => lasts.every((text) => text.startsWith(one));
  const cut = lasts.length < 2 ? 0 : Math.max(0, ...Array.from(lasts[0].matchAll(/[-_ ]/g), (m) => m.index + 1).filter((n) => same(lasts[0].slice(0, n))));
  return lasts.map((text) => (text.length - cut > 24 ? `${text.slice(cut, cut + 23)}…` : text.slice(cut) || text));
};
// Pixels of a value, about: enough to keep names apart.
const scaleOf = (values, type, size) => {
  const map = type === "log" ? Math.log : (v) => v;
  const [low, high] = [map(Math.min(...values)), map(Math.max(...values))];
  return (v) => 14 + ((map(v) - low) / (high - low || 1)) * (size - 28);
};
// Which names stand right and which left of their marks; those without room for either stay in the tooltip.
const placed = (labels, marks, x, y, width) => {
  const taken = marks.map((p) => ({ left: x(p.x) - 5, right: x(p.x) + 5, top: y(p.y) - 5, bottom: y(p.y) + 5 }));
  const free = (box) =>
    box.left > 0 && box.right < width + 8 &&
    taken.every((o) => box.right < o.left || box.left > o.right || box.bottom < o.top || box.top > o.bottom);
  const sides = { right: [], left: [] };
  const named = new Set(); // controls, which are named once
  for (const label of labels) {
    const long = 6 * label.label.length;
    for (const side of label.control ? ["right"] : ["right", "left"]) {
      const start = side === "right" ? x(label.x) + 7 : x(label.x) - 7 - long;
      const box = { left: start, right: start + long, top: y(label.y) - 13, bottom: y(label.y) + 1 };
      if (!free(box) || named.has(label.label)) continue;
      if (label.control) named.add(label.label);
      taken.push(box);
      sides[side].push(label);
      break;
    }
  }
  return sides;
};
const fillNames = (spec, beside, points, ends, types, width) => {
  if (!shows("names") || points.length > NAMED) return;
  const { crosses, levels, other } = beside;
  const inner = width - 62; // without the labels of the vertical axis
  const more = (name) => [...crosses.map((one) => one[name]), ...(name === other ? levels.map((one) => one.level) : [])];
  const x = scaleOf([...ends.x, ...more("x")], types.x, inner);
  const up = scaleOf([...ends.y, ...more("y")], types.y, spec.height - 40);
  const short = shortNames(points.map((point) => point.sae));
  const labels = points.map((point, i) => ({ x: point.x, y: point.y, label: short[i] }));
  for (const point of crosses) labels.push({ x: point.x, y: point.y, label: point.control, control: true });
  const sides = placed(labels, [...points, ...crosses], x, (v) => spec.height - 40 - up(v), inner);
  for (const side of ["right", "left"]) {
    layerOf(spec, `names-${side}`).data.values = sides[side].filter((one) => !one.control);
  }
  layerOf(spec, "control-names").data.values = sides.right.filter((one) => one.control);
};

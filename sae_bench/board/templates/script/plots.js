// ---- plots
const placeText = (where) => [$("filter-suite") ? where.suite : "", where.model, where.hook].filter(Boolean).join(", ");
let waiting;
const places = () => {
  const menu = $("place");
  const before = menu.value === "" ? state.get("at") : menu.value;
  menu.replaceChildren();
  for (const [i, one] of data.places.entries()) if (at(one)) option(menu, one.key, placeText(one) || String(i));
  restore(menu, before);
  const same = menu.value === before;
  $("plots").hidden = menu.options.length === 0;
  if (menu.value !== "" && !(same && $("x0").options.length)) axes();
  else if (data.saes.length > CROWD) {
    clearTimeout(waiting);
    waiting = setTimeout(plots, 200);
  } else plots();
};
const placeShown = () => data.places.find((one) => one.key === $("place").value);
const axes = () => {
  const found = placeShown();
  if (!found) return;
  for (const i of [0, 1]) {
    const [x, y] = found.plots[Math.min(i, found.plots.length - 1)] || [0, Math.min(1, found.axes.length - 1)];
    for (const [name, position] of [[`x${i}`, x], [`y${i}`, y]]) {
      $(name).replaceChildren();
      for (const axis of found.axes) option($(name), axis.key, axis.title);
      if (!restore($(name), state.get(name))) $(name).selectedIndex = position;
    }
  }
  plots();
};
const cost = (figure, axis) => (axis.sign === 0 ? null : axis.sign * figure);
const pointsOf = (found, axes, ends) => {
  const points = [];
  const both = [found.axes[axes.x], found.axes[axes.y]];
  const fair = both.some((axis) => axis.l0) || !both.some((axis) => axis.equal);
  found.saes.forEach((number, row) => {
    const sae = data.saes[number];
    const figures = { x: found.values[row][axes.x], y: found.values[row][axes.y] };
    if (!figures.x || !figures.y || !kept(sae)) return;
    const point = { sae: sae.name, architecture: sae.architecture, width: sae.width };
    for (const name of ["x", "y"]) {
      [point[name], point[`${name}l`], point[`${name}h`]] = figures[name];
      point[`c${name}`] = fair ? cost(figures[name][0], found.axes[axes[name]]) : null;
      ends[name].push(...figures[name].filter((end) => end !== null));
    }
    points.push(point);
  });
  return points;
};
const plot = (i) => {
  const found = placeShown();
  if (!found || found.axes.length === 0 || $("plots").hidden) return;
  const ends = { x: [], y: [] };
  const chosenAxes = { x: $(`x${i}`).selectedIndex, y: $(`y${i}`).selectedIndex };
  const points = pointsOf(found, chosenAxes, ends);
  const spec = copy(data.pareto);
  spec.data.values = points;
  const beside = controlsOf(found, chosenAxes, points);
  const types = {};
  const tooltip = layerOf(spec, "saes").encoding.tooltip;
  for (const name of ["x", "y"]) {
    const title = found.axes[chosenAxes[name]].title;
    const levels = name === beside.other ? beside.levels.map((one) => one.level) : [];
    types[name] = typeOf(ends[name], [...beside.crosses.map((one) => one[name]), ...levels]);
    for (const encoding of [spec.encoding, layerOf(spec, "across").encoding, layerOf(spec, "along").encoding]) {
      if (encoding[name] && encoding[name].scale) {
        encoding[name].title = title;
        encoding[name].scale.type = types[name];
      }
    }
    for (const entry of tooltip) {
      if (entry.field[0] === name && entry.field.length < 3) {
        entry.title = title + ({ l: ", low", h: ", high" }[entry.field[1]] || "");
      }
    }
  }
  fillBands(spec, found, beside);
  fillControls(spec, beside, types);
  fillNames(spec, beside, points, ends, types, room($(`chart${i}`)));
  draw($(`chart${i}`), spec);
};
const plots = () => [0, 1].forEach(plot);
$("place").addEventListener("change", () => {
  say("at", $("place").value);
  axes();
});
for (const i of [0, 1]) {
  for (const name of [`x${i}`, `y${i}`]) {
    $(name).addEventListener("change", () => {
      say(name, $(name).value);
      plot(i);
    });
  }
}
const restoreShown = () => {
  const hidden = (state.get("hide") || "").split(",");
  for (const what of SHOWN) $(`show-${what}`).checked = !hidden.includes(what);
};
for (const what of SHOWN) {
  $(`show-${what}`).addEventListener("change", () => {
    say("hide", SHOWN.filter((one) => !shows(one)).join(","));
    plots();
  });
}

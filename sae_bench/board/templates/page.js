"use strict";
// Text from results is only ever set as textContent; data comes from the JSON element, never from script.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const copy = (spec) => JSON.parse(JSON.stringify(spec));
  const CROWD = 300; // marks of a plot, above which it is drawn as an image and not at every letter that is typed
  const draw = (element, spec) =>
    // "ast": expressions are interpreted, so that the page needs no right to make code from text
    vegaEmbed(element, spec, {
      ast: true,
      renderer: spec.data.values.length > CROWD ? "canvas" : "svg", // thousands of elements would make every click wait
      actions: { export: true, source: false, compiled: false, editor: false },
    });

  // ---- long tables begin with their first rows, which also keeps sorting quick
  const MOST = 100;
  const MORE = 1000; // rows that a click adds to a table which is longer than that
  const passed = new WeakMap(); // row: whether the filters keep it
  const limit = (section) => {
    const rows = section.querySelector("tbody").rows;
    const most = Number(section.dataset.most || MOST);
    let shown = 0;
    for (const row of rows) {
      shown += passed.get(row);
      const hidden = !passed.get(row) || shown > most;
      if (row.hidden !== hidden) row.hidden = hidden;
    }
    const button = section.querySelector(".all");
    button.hidden = shown <= most;
    button.textContent = shown - most > MORE ? `show ${MORE} more of ${shown}` : `show all ${shown}`;
  };
  for (const button of document.querySelectorAll(".all")) {
    button.addEventListener("click", () => {
      const section = button.closest("section");
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
  const sort = (header) => {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const first = header.firstElementChild.dataset.first === "up" ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = header.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows, (row) => [value(row.cells[header.cellIndex]), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * order(a, b)));
    body.append(...rows.map(([, row]) => row));
    limit(table.closest("section"));
  };
  for (const header of document.querySelectorAll(".scores th")) {
    header.firstElementChild.addEventListener("click", () => sort(header));
  }

  // ---- filters: one for all tables and plots
  const chosen = (name) => $(`filter-${name}`).value;
  const kept = (sae) =>
    (!chosen("architecture") || sae.architecture === chosen("architecture")) &&
    (!chosen("width") || String(sae.width) === chosen("width")) &&
    sae.name.toLowerCase().includes(chosen("name").toLowerCase());
  const at = (model, hook) =>
    (!chosen("model") || model === chosen("model")) && (!chosen("hook") || hook === chosen("hook"));
  const filter = () => {
    const keep = data.saes.map(kept);
    const seen = new Set();
    for (const section of document.querySelectorAll(".scores")) {
      let shown = 0;
      const here = at(section.dataset.model, section.dataset.hook);
      for (const row of section.querySelector("tbody").rows) {
        passed.set(row, keep[row.dataset.sae]);
        if (here && keep[row.dataset.sae]) {
          shown += 1;
          seen.add(row.dataset.sae);
        }
      }
      section.hidden = shown === 0;
      limit(section);
    }
    $("count").textContent = `${seen.size} of ${data.saes.length} SAEs`;
    places();
  };

  // ---- plots
  const places = () => {
    const menu = $("place");
    const before = menu.value;
    menu.replaceChildren();
    data.places.forEach((place, i) => {
      if (at(place.model, place.hook)) make("option", `${place.model}, ${place.hook}`, menu).value = i;
    });
    if (Array.from(menu.options).some((option) => option.value === before)) menu.value = before;
    $("plots").hidden = menu.options.length === 0;
    if (menu.value !== "" && menu.value !== before) axes();
    else if (data.saes.length > CROWD) {
      clearTimeout(waiting);
      waiting = setTimeout(plots, 200);
    } else plots();
  };
  let waiting;
  const axes = () => {
    const place = data.places[$("place").value];
    for (const i of [0, 1]) {
      const [x, y] = place.plots[Math.min(i, place.plots.length - 1)] || [0, Math.min(1, place.axes.length - 1)];
      for (const [name, position] of [[`x${i}`, x], [`y${i}`, y]]) {
        $(name).replaceChildren();
        place.axes.forEach((axis, k) => (make("option", axis.title, $(name)).value = k));
        $(name).value = position;
      }
    }
    plots();
  };
  const cost = (figure, axis) =>
    axis.target !== null ? Math.abs(figure - axis.target) : axis.sign === 0 ? null : axis.sign * figure;
  const plot = (i) => {
    const place = data.places[$("place").value];
    if (!place || place.axes.length === 0) return;
    const ends = { x: [], y: [] };
    const points = [];
    const chosenAxes = { x: Number($(`x${i}`).value), y: Number($(`y${i}`).value) };
    const both = [place.axes[chosenAxes.x], place.axes[chosenAxes.y]];
    const fair = both.some((axis) => axis.l0) || !both.some((axis) => axis.equal);
    place.saes.forEach((number, row) => {
      const sae = data.saes[number];
      const figures = { x: place.values[row][chosenAxes.x], y: place.values[row][chosenAxes.y] };
      if (!figures.x || !figures.y || !kept(sae)) return;
      const point = { sae: sae.name, architecture: sae.architecture, width: sae.width };
      for (const name of ["x", "y"]) {
        [point[name], point[`${name}l`], point[`${name}h`]] = figures[name];
        point[`c${name}`] = fair ? cost(figures[name][0], place.axes[chosenAxes[name]]) : null;
        ends[name].push(...figures[name].filter((end) => end !== null));
      }
      points.push(point);
    });
    const spec = copy(data.pareto);
    spec.data.values = points;
    const tooltip = spec.layer[3].encoding.tooltip;
    for (const name of ["x", "y"]) {
      const title = place.axes[chosenAxes[name]].title;
      const least = Math.min(...ends[name]);
      const type = least > 0 && Math.max(...ends[name]) > 8 * least ? "log" : "linear";
      for (const encoding of [spec.encoding, spec.layer[1].encoding, spec.layer[2].encoding]) {
        if (encoding[name] && encoding[name].scale) {
          encoding[name].title = title;
          encoding[name].scale.type = type;
        }
      }
      for (const entry of tooltip) {
        if (entry.field[0] === name && entry.field.length < 3) {
          entry.title = title + ({ l: ", low", h: ", high" }[entry.field[1]] || "");
        }
      }
    }
    draw($(`chart${i}`), spec);
  };
  const plots = () => [0, 1].forEach(plot);

  // ---- one SAE
  const table = (parent, head, rows) => {
    const element = make("table", undefined, make("div", undefined, parent));
    element.parentElement.className = "wide";
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
    const about = `${sae.architecture}, ${sae.width} latents, weights ${sae.sha}; ${sae.format}: ${sae.source}`;
    make("p", about, page).className = "about";
    if (data.shortened) make("p", "Details are shortened to keep the page small.", page).className = "hint";
    for (const result of data.details[number]) {
      make("h2", result.title, page);
      make("p", result.about, page).className = "about";
      table(page, ["metric", "score [95 % interval]", "unit", "n", ...result.controls], result.rows);
      for (const text of result.said) make("p", text, page).className = "note";
      for (const part of result.blocks) block(page, part);
    }
  };
  const route = () => {
    const found = /^#sae-(\d+)$/.exec(location.hash);
    const shown = found !== null && Number(found[1]) < data.saes.length;
    if (shown) detail(Number(found[1]));
    $("detail").hidden = !shown;
    $("main").hidden = shown;
    $("filters").hidden = shown;
    $("top").hidden = shown;
    if (shown) scrollTo(0, 0);
  };

  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("input", filter);
  $("place").addEventListener("change", axes);
  for (const i of [0, 1]) for (const name of ["x", "y"]) $(`${name}${i}`).addEventListener("change", () => plot(i));
  addEventListener("hashchange", route);
  filter();
  route();
})();

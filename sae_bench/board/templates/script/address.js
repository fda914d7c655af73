// ---- the address holds what is shown: #<place on the page>?<name>=<value>&... ; whatever else it holds does nothing
const KEYS = ["suite", "model", "hook", "architecture", "width", "name", "sort", "at", "x0", "y0", "x1", "y1", "hide", "in", "a", "b"];
const LONGEST = 300; // characters of a value
const state = new Map();
let place = "";
const written = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
};
const readAddress = () => {
  const hash = location.hash.slice(1);
  const cut = hash.indexOf("?");
  place = written(cut < 0 ? hash : hash.slice(0, cut));
  if (cut < 0) return false; // a link within the page: what is shown stays
  state.clear();
  for (const [name, value] of new URLSearchParams(hash.slice(cut + 1))) {
    if (KEYS.includes(name) && value !== "" && value.length <= LONGEST && !state.has(name)) state.set(name, value);
  }
  return true;
};
const writeAddress = () => {
  const query = new URLSearchParams(KEYS.filter((name) => state.has(name)).map((name) => [name, state.get(name)]));
  const hash = `#${encodeURIComponent(place)}${state.size ? `?${query}` : ""}`;
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
};
const say = (name, value) => {
  if (value === "" || value === null || value === undefined || String(value).length > LONGEST) state.delete(name);
  else state.set(name, String(value));
  writeAddress();
};
// Choose in a menu what the address says, if the menu has it; else its first entry.
const restore = (menu, value) => {
  const has = Array.from(menu.options).some((one) => one.value === value);
  if (has) menu.value = value;
  else menu.selectedIndex = menu.options.length ? 0 : -1;
  return has;
};

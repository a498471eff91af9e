// A typed text, its tokens coloured by one feature, and the features that fire on all of it or on one token.

const ROWS = 25;
const LEVELS = 8;
const ORDERS = {
  activation: "activation",
  peak: "share of its peak",
  tokens: "number of tokens",
};

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const decimal = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".live");
  const state = (root.state ??= { token: null, feature: null, order: "activation", shown: ROWS });
  const text = data.tokens.join("\u0000");
  if (state.text !== text) Object.assign(state, { token: null, feature: null, shown: ROWS, text });
  const act = (kind, value) => setTriggerValue("act", { kind, value });
  draw({ data, root, state, act });
}

function draw(view) {
  const { root, state } = view;
  const found = firing(view);
  view.found = found;
  // What colours the text: the feature pointed at, else the one held, else the first of the list.
  view.strip = strip(view);
  root.replaceChildren(view.strip, legend(view), bar(view), list(view));
  colour(view, state.feature ?? found[0]?.feature);
}

function strongest(feature, token) {
  if (token === null) return Math.max(...feature.values);
  const place = feature.rows.indexOf(token);
  return place < 0 ? 0 : feature.values[place];
}

function firing({ data, state }) {
  const here = data.features.filter((feature) => state.token === null || feature.rows.includes(state.token));
  const measure = {
    activation: (feature) => strongest(feature, state.token),
    peak: (feature) => (feature.peak > 0 ? strongest(feature, state.token) / feature.peak : 0),
    tokens: (feature) => feature.rows.length,
  }[state.order];
  return here.sort((one, other) => measure(other) - measure(one) || one.feature - other.feature);
}

function strip(view) {
  const { data, state } = view;
  const frame = element("div", "strip");
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "The text; choose a token to see what fires on it");
  view.tokens = data.tokens.map((text, token) => {
    const node = element("button", "token", text);
    node.setAttribute("aria-pressed", String(state.token === token));
    node.onclick = () => {
      Object.assign(state, { token: state.token === token ? null : token, feature: null, shown: ROWS });
      draw(view);
      view.tokens[token].focus({ preventScroll: true });
    };
    const best = data.features
      .filter((feature) => feature.rows.includes(token))
      .sort((one, other) => strongest(other, token) - strongest(one, token))
      .slice(0, 3)
      .map((feature) => `${feature.feature} ${feature.label[0] || feature.token}: ${decimal(strongest(feature, token))}`);
    node.what = `token ${token}\n${best.join("\n") || "nothing shown fires here"}`;
    frame.append(node);
    return node;
  });
  return frame;
}

function colour(view, number) {
  const feature = view.data.features.find((one) => one.feature === number);
  const peak = feature ? Math.max(feature.peak, ...feature.values) : 1;
  view.tokens.forEach((node, token) => {
    const value = feature ? strongest(feature, token) : 0;
    const level = value > 0 ? Math.max(1, Math.min(LEVELS, Math.round((LEVELS * value) / peak + 0.25))) : 0;
    node.className = `token${level ? ` a${level}` : ""}${view.state.token === token ? " chosen" : ""}`;
    node.title = level ? `feature ${number}: ${decimal(value)}\n${node.what}` : node.what;
  });
  view.said.textContent = feature
    ? `coloured by feature ${number.toLocaleString("en")}${feature.label[0] ? `, ${feature.label[0]}` : ""}`
    : "no feature fires here";
  view.top.textContent = decimal(peak);
  view.rows?.forEach((row, name) => row.classList.toggle("here", name === number));
}

function legend(view) {
  const node = element("div", "legend");
  const ramp = element("span", "ramp");
  for (let level = 1; level <= LEVELS; level += 1) ramp.append(element("i", `a${level}`));
  view.said = element("span", "said");
  view.top = element("span");
  node.append(view.said, element("span", "", "0"), ramp, view.top);
  return node;
}

function bar(view) {
  const { data, state } = view;
  const node = element("div", "bar");
  const what = state.token === null ? "on the whole text" : `on token ${state.token}, `;
  const count = (number) => number.toLocaleString("en");
  const total = state.token === null ? data.total : data.totals[state.token];
  const shown = view.found.length < total ? `The ${count(view.found.length)} strongest of ${count(total)}` : count(total);
  node.append(element("b", "", `${shown} features `), what);
  if (state.token !== null) {
    node.append(element("code", "", data.tokens[state.token]));
    const back = element("button", "link", "whole text");
    back.onclick = () => {
      Object.assign(state, { token: null, feature: null, shown: ROWS });
      draw(view);
    };
    node.append(back);
  }
  const order = element("select");
  order.setAttribute("aria-label", "Order");
  for (const [name, text] of Object.entries(ORDERS)) {
    const option = element("option", "", text);
    option.value = name;
    option.selected = name === state.order;
    order.append(option);
  }
  order.onchange = () => {
    state.order = order.value;
    draw(view);
  };
  const label = element("label", "", "by ");
  label.append(order);
  node.append(label);
  return node;
}

function list(view) {
  const { data, state } = view;
  const frame = element("div", "scroll");
  const table = element("table");
  const head = element("tr");
  const titles = [["", ""], ["Feature", ""], [data.memberWord[0].toUpperCase() + data.memberWord.slice(1), "wide"], ["Top token", ""], ["Label", ""]];
  titles.push([state.token === null ? "Strongest" : "Here", "number"], ["Of its peak", "number wide"]);
  titles.push(["Tokens", "number wide"], ["Density", "number wide"], ["", ""]);
  for (const [title, kind] of titles) head.append(element("th", kind, title));
  const body = element("tbody");
  view.rows = new Map();
  for (const feature of view.found.slice(0, state.shown)) body.append(line(view, feature));
  const top = element("thead");
  top.append(head);
  table.append(top, body);
  frame.append(table);
  if (view.found.length > state.shown) {
    const more = element("button", "more", `Show more (${view.found.length - state.shown})`);
    more.onclick = () => {
      state.shown += 4 * ROWS;
      draw(view);
    };
    frame.append(more);
  }
  return frame;
}

function line(view, feature) {
  const { data, state, act } = view;
  const row = element("tr");
  const add = (className, ...parts) => {
    const cell = element("td", className);
    cell.append(...parts);
    row.append(cell);
    return cell;
  };
  const there = data.pinned.includes(feature.feature);
  const pin = element("button", `star${there ? " pinned" : ""}`, there ? "★" : "☆");
  pin.title = there ? "Unpin" : "Pin: compare it with others, side by side";
  pin.setAttribute("aria-label", `${there ? "Unpin" : "Pin"} feature ${feature.feature}`);
  pin.onclick = (event) => {
    event.stopPropagation();
    act("pin", feature.feature);
  };
  add("", pin);
  add("", feature.feature.toLocaleString("en"));
  const dot = element("i", "dot");
  dot.style.background = feature.member[1];
  add("wide", dot, feature.member[0]);
  add("", feature.token ? element("code", "", feature.token) : "");
  add("label", element("span", feature.label[1] ? "suggested" : "", feature.label[0]));
  const value = strongest(feature, state.token);
  add("number", decimal(value));
  add("number wide", feature.peak > 0 ? `${Math.round((100 * value) / feature.peak)}\u202f%` : "–");
  add("number wide", String(feature.rows.length));
  add("number wide", feature.density);
  const open = element("button", "link", "Open");
  open.setAttribute("aria-label", `Open feature ${feature.feature}`);
  open.onclick = (event) => {
    event.stopPropagation();
    act("open", feature.feature);
  };
  add("", open);
  row.onmouseenter = () => colour(view, feature.feature);
  row.onmouseleave = () => colour(view, state.feature ?? view.found[0]?.feature);
  row.onclick = () => {
    state.feature = feature.feature;
    colour(view, feature.feature);
  };
  row.ondblclick = () => act("open", feature.feature);
  view.rows.set(feature.feature, row);
  return row;
}

// A page of the feature table. All text becomes text nodes. `act` tells the server what was done.

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const CELLS = {
  text: (cell, value) => cell.append(value),
  number: (cell, value) => cell.append(value),
  token: (cell, value) => value && cell.append(element("code", "", value)),
  label: (cell, [text, suggested]) => {
    if (!text) return;
    const label = element("span", suggested ? "suggested" : "", text);
    label.title = suggested ? `suggested from its tokens: ${text}` : text;
    cell.append(label);
  },
  member: (cell, [text, color]) => {
    const dot = element("i", "dot");
    dot.style.background = color;
    cell.append(dot, text);
  },
  share: (cell, value) => {
    if (value === null) return cell.append("–");
    const bar = element("span", "bar");
    bar.append(element("i"));
    bar.firstChild.style.width = `${Math.round(100 * value)}%`;
    cell.append(bar, `${Math.round(100 * value)}\u202f%`);
  },
};

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const list = parentElement.querySelector(".list");
  const kept = (list.kept ??= {});
  const act = (kind, value) => setTriggerValue("act", { kind, value });
  Object.assign(kept, { data, act, list, rows: [] });
  // A new page starts at its first row, or at its last if one walked back to it.
  const same = kept.shown === data.features.join();
  const begun = data.features.indexOf(data.chosen);
  const sought = !same && !kept.backwards && begun >= 0;
  if (!same) kept.cursor = kept.backwards ? data.features.length - 1 : Math.max(begun, 0);
  kept.shown = data.features.join();
  kept.backwards = false;
  const focused = kept.focused;
  list.replaceChildren(table(kept), pager(kept));
  mark(kept, sought);
  if (focused) kept.table.focus({ preventScroll: true });
  if (!kept.listening) {
    kept.listening = (event) => keyed(kept, event);
    document.addEventListener("keydown", kept.listening);
  }
  return () => {
    document.removeEventListener("keydown", kept.listening);
    kept.listening = null;
  };
}

function table(kept) {
  const { data, act } = kept;
  const frame = element("div", "scroll");
  const body = element("table");
  body.tabIndex = 0;
  body.setAttribute("aria-label", "Features; arrow keys or j and k walk, Enter opens, p pins");
  body.onfocus = () => (kept.focused = true);
  body.onblur = () => (kept.focused = false);
  const head = element("tr");
  head.append(element("th", "pin"));
  for (const column of data.columns) head.append(heading(column, data, act));
  const top = element("thead");
  top.append(head);
  const rows = element("tbody");
  data.rows.forEach((row, place) => rows.append(line(kept, row, place)));
  body.append(top, rows);
  frame.append(body);
  kept.table = body;
  return frame;
}

function heading(column, data, act) {
  const cell = element("th", `${column.kind}${column.wide ? " wide" : ""}`);
  if (!column.sorts) {
    cell.append(element("span", "", column.title));
    cell.title = column.help;
    return cell;
  }
  const sorted = column.key === data.sort;
  const button = element("button", sorted ? "sorted" : "", column.title);
  if (sorted) button.append(element("span", "way", data.ascending ? "↑" : "↓"));
  button.title = `${column.help}${column.help ? ". " : ""}Click to sort${sorted ? " the other way round" : ""}`;
  button.onclick = () => act("sort", column.key);
  cell.setAttribute("aria-sort", sorted ? (data.ascending ? "ascending" : "descending") : "none");
  cell.append(button);
  return cell;
}

function line(kept, row, place) {
  const { data, act } = kept;
  const feature = data.features[place];
  const node = element("tr");
  const there = data.pinned.includes(feature);
  const pin = element("button", there ? "pinned" : "", there ? "★" : "☆");
  pin.title = there ? "Unpin" : "Pin: compare it with others, side by side";
  pin.setAttribute("aria-label", `${there ? "Unpin" : "Pin"} feature ${feature}`);
  pin.onclick = (event) => {
    event.stopPropagation();
    act("pin", feature);
  };
  const first = element("td", "pin");
  first.append(pin);
  node.append(first);
  data.columns.forEach((column, number) => {
    const cell = element("td", `${column.kind}${column.wide ? " wide" : ""}`);
    CELLS[column.kind](cell, row[number]);
    node.append(cell);
  });
  node.onclick = () => {
    kept.cursor = place;
    mark(kept, false);
    act("open", feature);
  };
  kept.rows.push(node);
  return node;
}

function pager(kept) {
  const { data, act } = kept;
  const bar = element("div", "pager");
  const step = (text, title, number) => {
    const button = element("button", "", text);
    button.title = title;
    button.disabled = number < 0 || number >= data.pages || number === data.number;
    button.onclick = () => act("page", number);
    bar.append(button);
  };
  if (data.pages > 1) {
    step("⏮", "First page", 0);
    step("◀", "Previous page", data.number - 1);
    const field = element("input");
    field.value = data.number + 1;
    field.inputMode = "numeric";
    field.setAttribute("aria-label", "Page");
    field.onchange = () => {
      const number = Number.parseInt(field.value, 10) - 1;
      if (number >= 0 && number < data.pages) act("page", number);
      else field.value = data.number + 1;
    };
    bar.append(field, element("span", "", `of ${data.pages.toLocaleString("en")} pages`));
    step("▶", "Next page", data.number + 1);
    step("⏭", "Last page", data.pages - 1);
  }
  const keys = element("span", "keys");
  for (const [key, what] of [["j", "down"], ["k", "up"], ["Enter", "open"], ["p", "pin"]]) {
    keys.append(element("kbd", "", key), `${what} `);
  }
  bar.append(keys);
  return bar;
}

function mark(kept, scroll) {
  kept.rows.forEach((row, place) => row.classList.toggle("here", place === kept.cursor));
  if (scroll) kept.rows[kept.cursor]?.scrollIntoView({ block: "nearest" });
}

function walk(kept, step) {
  const { data, act } = kept;
  const next = kept.cursor + step;
  if (next >= 0 && next < data.features.length) {
    kept.cursor = next;
    mark(kept, true);
  } else if (data.number + step >= 0 && data.number + step < data.pages) {
    kept.backwards = step < 0;
    act("page", data.number + step);
  }
}

function keyed(kept, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !kept.list.isConnected) return;
  const target = event.composedPath()[0];
  const typing = target.closest?.("input, textarea, select, [contenteditable], [role=combobox], [role=slider]");
  if (typing || document.querySelector("[role=dialog], [data-testid=stPopoverBody]")) return;
  // Arrow keys and Enter belong to whatever has the focus, letters to the table wherever one is on the page.
  const here = kept.list.contains(target) || target === document.body;
  const feature = kept.data.features[kept.cursor];
  const steps = { j: 1, k: -1, ...(kept.list.contains(target) ? { ArrowDown: 1, ArrowUp: -1 } : {}) };
  if (event.key in steps) walk(kept, steps[event.key]);
  else if (event.key === "Enter" && here && !target.closest?.("button") && feature !== undefined) {
    kept.act("open", feature);
  } else if (event.key === "p" && feature !== undefined) kept.act("pin", feature);
  else return;
  event.preventDefault();
}

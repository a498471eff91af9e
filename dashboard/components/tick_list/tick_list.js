// Rows with a box each. Everything from the run becomes text nodes; nothing is parsed as HTML.

const element = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
};

const draw = (row) => {
  const line = element("div", "row");
  line.dataset.feature = row.feature;
  const box = element("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `Ablate ${row.title}`);
  const score = element("div", "score-cell");
  const bar = element("span", row.feeds ? "bar" : "bar against");
  const filled = element("i");
  filled.style.width = `${Math.round(100 * row.share)}%`;
  bar.append(filled);
  score.append(bar, element("span", "score", row.feeds ? "feeds it" : "works against it"));
  const name = element("div", "name");
  const link = element(row.href ? "a" : "span", "", row.title);
  if (row.href) {
    link.href = row.href;
    link.target = "_blank";
    link.rel = "noopener";
    link.title = "Open the feature's page in a new tab";
  }
  const member = element("span", "member");
  const dot = element("span", "dot");
  dot.style.background = row.color;
  member.append(dot, document.createTextNode(row.member));
  name.append(link, member);
  const means = element("div", "means");
  if (row.label) means.append(element("span", "said", row.label));
  if (row.suggestion) {
    const guess = element("span", "guess", row.suggestion);
    guess.title = "A suggestion made from the tokens and contexts that drive the feature; no person has confirmed it";
    means.append(guess);
  }
  for (const word of row.words) {
    const chip = element("span", "chip word", word);
    chip.title = "A word of the task's texts that goes with this feature";
    means.append(chip);
  }
  for (const token of row.tokens) {
    const chip = element("span", "chip token", token);
    chip.title = "A token of the indexed text on which it fires most";
    means.append(chip);
  }
  for (const [text, why] of row.notes) {
    const tag = element("span", "tag", text);
    tag.title = why;
    means.append(tag);
  }
  const look = element("button", "", "texts");
  look.type = "button";
  look.title = "Show the texts on which it is strongest";
  line.append(box, score, name, means, look);
  return line;
};

export default function (component) {
  const { data, parentElement } = component;
  const list = parentElement.querySelector(".list");
  const own = (list.own ??= { ticked: new Set() });
  own.component = component;

  const paint = () => {
    for (const line of list.children) {
      const on = own.ticked.has(Number(line.dataset.feature));
      line.classList.toggle("on", on);
      line.querySelector("input").checked = on;
    }
  };
  const told = () => own.component.setStateValue("ticked", [...own.ticked].sort((a, b) => a - b));
  const turn = (feature) => {
    if (!own.ticked.delete(feature)) own.ticked.add(feature);
    paint();
    told();
  };

  const drawn = JSON.stringify(data.rows);
  if (own.drawn !== drawn) {
    own.drawn = drawn;
    list.replaceChildren(...data.rows.map(draw));
  }
  if (own.version !== data.version) {
    own.version = data.version;
    own.ticked = new Set(data.preset);
  }
  paint();

  list.onclick = (event) => {
    const line = event.target.closest(".row");
    if (!line || event.target.closest("a")) return;
    const feature = Number(line.dataset.feature);
    if (event.target.closest("button")) own.component.setTriggerValue("look", feature);
    else turn(feature);
  };
  list.onkeydown = (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const line = event.target.closest(".row");
    if (!step || !line?.[step]) return;
    event.preventDefault();
    line[step].querySelector("input").focus();
  };
}

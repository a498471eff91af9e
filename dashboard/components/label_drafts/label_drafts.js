// Drafts of labels: what is typed and not saved lies in the browser's own storage until it is saved or given up.
//
// The server learns of a draft when its form is opened, puts it into the fields and marks the form. Until that mark is
// on the page, letters typed into the form would write over a draft that nobody has seen, so they are not kept.

const STORE = "sae-ensemble-draft:";
const WAIT = 3000; // ms after which the server's answer is not awaited any longer
const FULL = "This browser keeps no drafts (its storage is full or switched off), so save before you leave the page.";

const same = (one, other) => ["label", "note"].every((part) => one[part].trim() === other[part].trim());

const stored = (place) => {
  try {
    const draft = JSON.parse(localStorage.getItem(STORE + place));
    return typeof draft?.label === "string" && typeof draft.note === "string" ? draft : null;
  } catch {
    return null;
  }
};

const forget = (place) => {
  try {
    localStorage.removeItem(STORE + place);
  } catch {
    // Where there is no storage, there is no draft.
  }
};

const textOf = (part, form) => document.querySelector(`.st-key-${part}-${CSS.escape(form)} input`)?.value;

const isOffered = (form) => document.querySelector(`.st-key-draft-${CSS.escape(form)}`) !== null;

const connect = (state) => {
  const onInput = (event) => {
    const name = [...(event.target.closest?.("[class*=st-key-label-], [class*=st-key-note-]")?.classList ?? [])]
      .map((one) => one.replace(/^st-key-(label|note)-/, ""))
      .find((one) => state.forms.has(one));
    // While a page is being changed, the form on it may be that of the feature before.
    const data = state.forms.get(name);
    if (!data) return;
    if (state.awaited === data.place && !isOffered(name) && performance.now() - state.since < WAIT) return;
    const draft = { label: textOf("label", name) ?? data.label, note: textOf("note", name) ?? data.note };
    if (same(draft, data)) return forget(data.place);
    try {
      localStorage.setItem(STORE + data.place, JSON.stringify({ ...draft, seen: data.seen }));
      state.say("");
    } catch {
      state.say(FULL);
    }
  };
  document.addEventListener("input", onInput);
  state.leave = () => document.removeEventListener("input", onInput);
};

const offer = (state, data) => {
  const draft = stored(data.place);
  if (!draft) return;
  if (same(draft, data)) return forget(data.place);
  state.awaited = data.place;
  state.since = performance.now();
  state.number += 1;
  state.send("draft", { ...draft, place: data.place, number: state.number });
};

const states = new WeakMap();

export default function ({ data, setTriggerValue, parentElement }) {
  let state = states.get(parentElement);
  if (!state) {
    state = { forms: new Map(), gone: new Map(), opened: "", awaited: "", since: 0, number: 0 };
    states.set(parentElement, state);
  }
  state.send = setTriggerValue;
  state.say = (text) => {
    parentElement.querySelector(".said").textContent = text;
  };
  if (!state.leave) connect(state);
  state.forms.set(data.form, data);
  if ((state.gone.get(data.place) ?? data.gone) !== data.gone) forget(data.place);
  state.gone.set(data.place, data.gone);
  if (data.shown) state.awaited = "";
  const opened = `${data.place} ${data.reload}`;
  if (state.opened !== opened) {
    state.opened = opened;
    offer(state, data);
  }
  return () => {
    state.leave?.();
    state.leave = null;
  };
}

// Drafts of labels: what is typed and not saved lies in the browser's own storage until it is saved or given up.
//
// The server learns of a draft when its form is opened, puts it into the fields and marks the form. Until that mark is
// on the page, letters typed into the form would write over a draft that nobody has seen, so they are not kept.

const STORE = "sae-ensemble-draft:";
const WAIT = 3000; // ms after which the server's answer is not awaited any longer
const FULL = "This browser keeps no drafts (its storage is full or switched off), so save before you leave the page.";

const same = (texts, saved) => Object.keys(saved).every((name) => texts[name].trim() === saved[name].trim());

// A draft that was kept before a field came to be has no text for it.
const stored = ({ place, saved }) => {
  try {
    const { seen, ...kept } = JSON.parse(localStorage.getItem(STORE + place));
    const texts = Object.fromEntries(Object.keys(saved).map((name) => [name, kept[name] ?? saved[name]]));
    return Object.values(texts).every((text) => typeof text === "string") ? { texts, seen } : null;
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

const fieldOf = (name, form) => `.st-key-${name}-${CSS.escape(form)}`;

const isOffered = (form) => document.querySelector(`.st-key-draft-${CSS.escape(form)}`) !== null;

const connect = (state) => {
  const onInput = ({ target }) => {
    const isTyped = ({ form, saved }) =>
      Object.keys(saved).some((name) => target.closest?.(fieldOf(name, form)));
    // While a page is being changed, the form on it may be that of the feature before.
    const data = [...state.forms.values()].find(isTyped);
    if (!data) return;
    if (state.awaited === data.place && !isOffered(data.form) && performance.now() - state.since < WAIT) return;
    const textOf = (name) => document.querySelector(`${fieldOf(name, data.form)} input`)?.value ?? data.saved[name];
    const texts = Object.fromEntries(Object.keys(data.saved).map((name) => [name, textOf(name)]));
    if (same(texts, data.saved)) return forget(data.place);
    try {
      localStorage.setItem(STORE + data.place, JSON.stringify({ ...texts, seen: data.seen }));
      state.say("");
    } catch {
      state.say(FULL);
    }
  };
  // The buttons beside a number change it without an event of input, a moment after they are pressed.
  const onClick = (event) => setTimeout(() => onInput(event));
  document.addEventListener("input", onInput);
  document.addEventListener("click", onClick);
  state.note = onInput;
  state.leave = () => {
    document.removeEventListener("input", onInput);
    document.removeEventListener("click", onClick);
  };
};

const offer = (state, data) => {
  const draft = stored(data);
  if (!draft) return;
  if (same(draft.texts, data.saved)) return forget(data.place);
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
    // Somebody may have begun to type before this script was there.
    if (!state.opened && !stored(data)) state.note({ target: document.activeElement ?? document.body });
    state.opened = opened;
    offer(state, data);
  }
  return () => {
    state.leave?.();
    state.leave = null;
  };
}

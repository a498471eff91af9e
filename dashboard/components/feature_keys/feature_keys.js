// The keys of a feature's page, and its links, answered without loading the page anew. It shows nothing itself.
//
// A held arrow key sends presses faster than a page is drawn. They are counted here; while an answer is awaited the
// count grows, and when it is there the whole count travels at once. So none is lost, and the page never falls behind.

const WAIT = 3000; // ms after which an answer is not awaited any longer
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

const typing = (event) => {
  const target = event.composedPath()[0];
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
};

const connect = (state) => {
  const flush = () => {
    const waits = state.sent && performance.now() - state.sent < WAIT;
    if (waits || (!state.steps && state.open === null)) return;
    state.sent = performance.now();
    state.number += 1;
    // A link that was clicked overtakes the steps before it.
    state.send("act", { open: state.open, steps: state.open === null ? state.steps : 0, number: state.number });
    state.steps = 0;
    state.open = null;
  };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing(event)) return event.composedPath()[0].blur();
    if (typing(event) || document.querySelector("[role=dialog], [data-baseweb=popover]")) return;
    const radio = event.composedPath()[0].getAttribute?.("role") === "radio";
    if (event.key in STEPS && !radio) {
      event.preventDefault();
      state.steps += STEPS[event.key];
      flush();
    } else if (event.key === "l") {
      const field = document.querySelector("[data-testid=stForm] input[aria-label=Label]");
      if (!field) return;
      event.preventDefault(); // or the letter would be written into the field
      field.focus();
      field.select();
    } else if (event.key === "o") {
      document.querySelector(".sae a[data-go]")?.click();
    }
  };
  const onClick = (event) => {
    const link = event.target.closest?.(".sae a[data-go]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    state.open = Number(link.dataset.go);
    state.steps = 0;
    flush();
  };
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  document.body.dataset.featureKeys = "heard";
  state.flush = flush;
  state.leave = () => {
    delete document.body.dataset.featureKeys;
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("click", onClick);
  };
};

const states = new WeakMap();

export default function ({ data, setTriggerValue, parentElement }) {
  let state = states.get(parentElement);
  if (!state) {
    state = { steps: 0, open: null, number: 0, sent: 0, answered: data.answered };
    states.set(parentElement, state);
  }
  state.send = setTriggerValue;
  if (!state.leave) connect(state);
  if (state.answered !== data.answered) {
    state.answered = data.answered;
    state.sent = 0;
    state.flush();
  }
  return () => {
    state.leave?.();
    state.leave = null;
  };
}

// What a page remembers while it is measured: when input came, when the WebSocket sent and received, when what people
// see last changed. Times are milliseconds of performance.now(); `painted` is the first frame after a change.
(() => {
  const seen = { input: 0, sent: 0, received: 0, changed: 0, painted: 0, messages: 0, bytes: 0, keys: 0 };
  window.__seen = seen;
  window.__restart = () => Object.assign(seen, { input: 0, sent: 0, received: 0, messages: 0, bytes: 0, keys: 0 });
  const noted = (event) => {
    if (!event.isTrusted) return;
    seen.keys += event.type === "keydown";
    if (!seen.input) seen.input = performance.now();
  };
  for (const type of ["pointerdown", "keydown"]) window.addEventListener(type, noted, true);

  const Plain = window.WebSocket;
  window.WebSocket = class extends Plain {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", (event) => {
        seen.received = performance.now();
        seen.messages += 1;
        seen.bytes += event.data.size ?? event.data.byteLength ?? event.data.length ?? 0;
      });
    }
    send(data) {
      if (!seen.sent) seen.sent = performance.now();
      return super.send(data);
    }
  };

  // Of attributes only the source of an image counts: classes change while an element waits, too.
  const watched = { childList: true, characterData: true, attributes: true, attributeFilter: ["src", "href"], subtree: true };
  const visible = (node) => {
    // What a component draws in a shadow of its own counts as its host.
    const host = node.getRootNode().host ?? node;
    const element = host.nodeType === Node.ELEMENT_NODE ? host : host.parentElement;
    return element?.closest("[data-testid=stMain], [data-testid=stSidebar]");
  };
  const observer = new MutationObserver((records) => {
    if (!records.some((record) => visible(record.target))) return;
    seen.changed = performance.now();
    requestAnimationFrame(() => { seen.painted = Math.max(seen.painted, performance.now()); });
  });
  const plainShadow = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (options) {
    const root = plainShadow.call(this, options);
    observer.observe(root, watched);
    return root;
  };
  const begin = () => observer.observe(document.documentElement, watched);
  if (document.documentElement) begin();
  else document.addEventListener("readystatechange", begin, { once: true });
})();

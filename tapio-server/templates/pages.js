// Keeps a page fresh, says when it is not, and adds keys. Pages are whole without it.
"use strict";
(() => {
  const QUIET_MS = 12000; // Signs of life come every 5 s; without them for so long the page is stale.
  const OFTEN_MS = 30000; // Ages are as old as that at most.
  const SOON_MS = 500; // Several changes at once are one.
  const AGAIN_MS = 5000;
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  root.classList.add("script");

  // What is open is in the URL, as everything else.
  const unfold = () => {
    const one = by(location.hash.slice(1));
    if (one?.matches("details")) one.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  document.addEventListener("toggle", ({ target }) => {
    if (!target.id || target.open === (location.hash === `#${target.id}`)) return;
    history.replaceState(null, "", target.open ? `#${target.id}` : location.pathname + location.search);
  }, true);

  // What is shown.
  let heard = Date.now(), loaded = Date.now(), tried = Date.now(), timer = 0, loading = false;

  const show = (fresh) => {
    const focused = document.activeElement && document.activeElement.id;
    const open = [...document.querySelectorAll("details[open]")].map((one) => one.id);
    const said = document.querySelector("[data-said]")?.textContent;
    for (const live of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(live.id);
      if (!next) continue;
      for (const { name, value } of next.attributes) live.setAttribute(name, value);
      if (!next.hasAttribute("data-waiting")) live.removeAttribute("data-waiting");
      if (next.innerHTML !== live.innerHTML) live.replaceChildren(...next.childNodes);
    }
    document.title = fresh.title;
    for (const one of document.querySelectorAll("main details[id]")) one.open = open.includes(one.id);
    if (focused && document.activeElement.id !== focused) by(focused)?.focus({ preventScroll: true });
    const now = document.querySelector("[data-said]")?.textContent;
    if (now !== said) by("said").textContent = now ?? "";
  };

  // Somebody chooses or marks something: it is not taken from under their hands.
  const isBusy = () =>
    document.activeElement?.matches("main select, main input") || String(document.getSelection()) !== "";

  const load = async () => {
    if (loading || isBusy()) return;
    loading = true;
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      const text = await response.text();
      const isPage = response.headers.get("content-type")?.startsWith("text/html");
      if (isPage && response.status === 401) location.reload(); // To sign in again.
      else if (isPage && !isBusy()) {
        show(new DOMParser().parseFromString(text, "text/html"));
        loaded = Date.now();
      }
    } catch {
      // The stream of events says that the server is away.
    } finally {
      loading = false;
    }
  };

  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(load, SOON_MS);
  };

  // Whether that is how it is.
  const stale = by("stale");
  const alive = () => {
    heard = Date.now();
    if (stale.hidden) return;
    stale.hidden = true;
    root.classList.remove("stale");
    soon();
  };
  let source;
  const connect = () => {
    tried = Date.now();
    source = new EventSource("/api/v1/events");
    source.addEventListener("incident", () => { alive(); soon(); });
    source.addEventListener("beat", (event) => {
      alive();
      const main = by("main");
      const isOther = String(JSON.parse(event.data).number) !== main.dataset.number;
      if (isOther || "waiting" in main.dataset || Date.now() - loaded > OFTEN_MS) soon();
    });
  };
  connect();
  setInterval(() => {
    const now = Date.now();
    if (source.readyState === EventSource.CLOSED && now - tried > AGAIN_MS) connect();
    if (now - heard < QUIET_MS || !stale.hidden) return;
    const since = new Date(heard).toISOString().slice(11, 19);
    stale.textContent = `Stale since ${since} UTC: no connection to the server. What you see may be out of date.`;
    stale.hidden = false;
    root.classList.add("stale");
  }, 1000);

  // Commands to copy.
  const copy = async (button) => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    by("said").textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  // Keys.
  const move = (step) => {
    const items = [...document.querySelectorAll("[data-item]")];
    const at = items.indexOf(document.activeElement);
    const next = items[Math.min(Math.max(at < 0 ? 0 : at + step, 0), items.length - 1)];
    next?.focus();
  };
  const toggle = (id) => {
    const one = by(id);
    if (!one) return;
    one.open = !one.open;
    one.querySelector("summary").focus();
    one.scrollIntoView({ block: "nearest" });
  };
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    e: () => toggle("evidence"),
    b: () => by("blast")?.click(),
    c: () => document.querySelector("main [data-copy]")?.click(),
    "/": () => toggle("filter"),
    "?": () => toggle("help"),
    Escape: () => {
      const open = document.activeElement.closest("details[open]");
      if (open) { open.open = false; open.querySelector("summary").focus(); }
    },
  };
  const places = { n: "/", c: "/changes", v: "/coverage" };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    if (root.dataset.keys === "off" || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key !== "Escape" && event.target.closest("input, select, textarea")) return;
    const isPlace = Date.now() - going < 1500 && Object.hasOwn(places, event.key);
    going = event.key === "g" ? Date.now() : 0;
    if (isPlace) location.href = places[event.key];
    else if (Object.hasOwn(keys, event.key)) keys[event.key]();
    else return;
    event.preventDefault();
  });
})();

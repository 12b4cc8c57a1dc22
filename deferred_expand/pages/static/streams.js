// Keeps the page fresh, leads into Airflow's own pages, and asks before it has Airflow's API change something.
(function () {
  "use strict";
  const EVERY = 3000, RATE_OVER = 60000, KNOWN_AFTER = 15000; // milliseconds
  const NOT_FOUND = 404;
  const live = document.getElementById("live"), note = document.getElementById("note");
  const samples = [], known = []; // of each rate
  let polls = true, refused = "";

  function tell(text) {
    note.textContent = text;
    note.hidden = !text;
  }

  // The sandbox of the frame allows neither to navigate the window around it nor to open another.
  function goTo(address, inNewTab) {
    const link = window.parent.document.createElement("a");
    link.href = address;
    if (inNewTab) {
      link.target = "_blank";
      link.rel = "noopener";
      link.click();
      return;
    }
    window.parent.history.pushState(null, "", link.href);
    window.parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
  }

  function onClick(event) {
    const link = event.target.closest("a[data-airflow]");
    if (link && window.parent !== window) {
      event.preventDefault();
      goTo(link.href, event.ctrlKey || event.metaKey || event.button === 1);
      return;
    }
    const button = event.target.closest("button[data-ask]");
    if (button) ask(button);
  }

  // What a person writes: a number where it is one; left empty: as it was before anybody wrote something.
  function onSubmit(event) {
    event.preventDefault();
    const form = event.target, changes = {};
    for (const input of form.querySelectorAll("input")) {
      const text = input.value.trim();
      changes[input.name] = text === "" ? null : Number.isFinite(Number(text)) ? Number(text) : text;
    }
    if (form.dataset.put) {
      const value = { ...JSON.parse(form.dataset.written), ...changes };
      send("PUT", form.dataset.put, { value }).then(load);
    } else control(changes).then(load);
  }

  // Of what nobody has written yet Airflow's API knows nothing: then it is made.
  async function control(changes) {
    const shown = document.getElementById("control"), key = "deferred_expand.control", map_index = -1;
    const value = { ...JSON.parse(shown.dataset.written), ...changes };
    for (const name of Object.keys(value)) if (value[name] === null) delete value[name];
    const changed = await send("PATCH", shown.dataset.to + "/" + key, { value, map_index }, NOT_FOUND);
    if (changed === NOT_FOUND) await send("POST", shown.dataset.to, { key, value, map_index });
  }

  function ask(button) {
    const dialog = document.createElement("dialog"), text = document.createElement("p");
    const yes = document.createElement("button"), no = document.createElement("button");
    text.textContent = button.dataset.ask;
    yes.textContent = button.textContent;
    yes.className = "yes";
    no.textContent = "Cancel";
    dialog.setAttribute("aria-label", button.textContent);
    dialog.append(text, yes, no);
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", () => { dialog.close(); act(button.dataset).then(load); });
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  }

  async function act({ method, to, body, control: changes }) {
    if (changes) await control(JSON.parse(changes));
    else await send(method, to, JSON.parse(body));
  }

  // The status, of which one may be expected.
  async function send(method, to, body, expected) {
    const headers = { "Content-Type": "application/json" };
    try {
      const answer = await fetch(to, { method, headers, body: JSON.stringify(body) });
      if (answer.status !== expected) {
        refused = answer.ok ? "" : "Airflow refused: " + (await answer.text());
        tell(refused);
      }
      return answer.status;
    } catch (error) {
      tell("The server does not answer");
    }
  }

  function rates() {
    const perMinute = [];
    document.querySelectorAll("[data-rate]").forEach((shown, index) => {
      const seen = (samples[index] = samples[index] || []), now = Date.now(), count = Number(shown.dataset.rate);
      if (shown.textContent.trim() !== "\u2013") known[index] = shown.textContent; // of the server, at first
      seen.push([now, count]);
      while (seen.length > 2 && now - seen[0][0] > RATE_OVER) seen.shift();
      const over = now - seen[0][0];
      if (over > KNOWN_AFTER) known[index] = Math.round((60000 * (count - seen[0][1])) / over).toLocaleString();
      if (known[index]) shown.textContent = known[index];
      perMinute[index] = Number((known[index] || "").replace(/\D/g, ""));
    });
    document.querySelectorAll("[data-left]").forEach((shown) => {
      const seconds = (60 * Number(shown.dataset.left)) / perMinute[1];
      if (Number.isFinite(seconds)) shown.textContent = clock(Math.round(seconds));
    });
  }

  function clock(seconds) {
    const two = (number) => String(number).padStart(2, "0");
    return Math.floor(seconds / 3600) + ":" + two(Math.floor(seconds / 60) % 60) + ":" + two(seconds % 60);
  }

  const nameOf = (element) => element.dataset.control || element.dataset.to || element.href || element.className;

  // Who goes through the page by keyboard stays where they are.
  function keepingFocus(part, replace) {
    const focused = part.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    replace();
    if (focused === null) return;
    const same = [...document.querySelectorAll("a, button, [tabindex]")].find((one) => nameOf(one) === focused);
    if (same) same.focus({ preventScroll: true });
  }

  async function load() {
    let answer;
    try {
      answer = await fetch(location.href, { headers: { "X-Part": "1" } });
    } catch (error) {
      return tell("The server does not answer");
    }
    if (answer.status === 401 || answer.status === 403) {
      polls = false;
      return tell(answer.status === 401 ? "You are signed out: sign in and load the page again" : "You may not see this");
    }
    if (!answer.ok) return tell("The server has answered " + answer.status);
    const text = await answer.text();
    tell(refused);
    if (document.querySelector("dialog[open]") || String(getSelection())) return;
    keepingFocus(live, () => { live.innerHTML = text; }); // escaped by the server; scripts in it would not run
    rates();
  }

  // What changes slowly, or holds what a person is about to write, is not read with each look.
  async function renew(name) {
    const shown = document.querySelector(`[data-name=${name}]`);
    if (!shown || document.hidden || !polls || isBeingFilled(shown)) return;
    const page = await fetch(location.href).then((answer) => (answer.ok ? answer.text() : ""), () => "");
    const fresh = new DOMParser().parseFromString(page, "text/html").querySelector(`[data-name=${name}]`);
    if (fresh && !isBeingFilled(shown)) keepingFocus(shown, () => shown.replaceWith(fresh));
  }

  function isBeingFilled(part) {
    return part.contains(document.activeElement) && document.activeElement.tagName === "INPUT";
  }

  async function loop() {
    if (!document.hidden) await load();
    if (polls) setTimeout(loop, EVERY);
  }

  document.addEventListener("click", onClick);
  document.addEventListener("auxclick", onClick);
  document.addEventListener("submit", onSubmit);
  rates();
  setTimeout(loop, EVERY);
  for (const shown of document.querySelectorAll("[data-still]")) {
    setInterval(renew, Number(shown.dataset.still), shown.dataset.name);
  }
})();

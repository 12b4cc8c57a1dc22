// Keeps the page fresh, leads into Airflow's own pages, and asks before it has Airflow's API change something.
(function () {
  "use strict";
  const EVERY = 3000, PICTURE_EVERY = 30000, RATE_OVER = 60000; // milliseconds
  const live = document.getElementById("live"), note = document.getElementById("note");
  const samples = [];
  let polls = true;

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
    const button = event.target.closest("button[data-to]");
    if (button) ask(button);
  }

  function ask(button) {
    const dialog = document.createElement("dialog"), text = document.createElement("p");
    const yes = document.createElement("button"), no = document.createElement("button");
    text.textContent = button.dataset.ask;
    yes.textContent = button.textContent;
    yes.className = "yes";
    no.textContent = "Cancel";
    dialog.append(text, yes, no);
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", () => { dialog.close(); act(button.dataset); });
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  }

  async function act({ method, to, body }) {
    try {
      const answer = await fetch(to, { method, headers: { "Content-Type": "application/json" }, body });
      tell(answer.ok ? "" : "Airflow refused: " + (await answer.text()));
    } catch (error) {
      tell("The server does not answer");
    }
    await load();
  }

  function rates() {
    document.querySelectorAll("[data-rate]").forEach((shown, index) => {
      const seen = (samples[index] = samples[index] || []), now = Date.now(), count = Number(shown.dataset.rate);
      seen.push([now, count]);
      while (seen.length > 2 && now - seen[0][0] > RATE_OVER) seen.shift();
      const minutes = (now - seen[0][0]) / 60000;
      if (minutes > 0.03) shown.textContent = Math.round((count - seen[0][1]) / minutes).toLocaleString();
    });
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
    tell("");
    if (document.querySelector("dialog[open]") || String(getSelection())) return;
    live.innerHTML = text; // escaped by the server; scripts in it would not run
    rates();
  }

  async function draw() {
    const shown = document.querySelector("[data-picture]");
    if (!shown || document.hidden || !polls) return;
    const page = await fetch(location.href).then((answer) => (answer.ok ? answer.text() : ""), () => "");
    const fresh = new DOMParser().parseFromString(page, "text/html").querySelector("[data-picture]");
    if (fresh) shown.replaceWith(fresh);
  }

  async function loop() {
    if (!document.hidden) await load();
    if (polls) setTimeout(loop, EVERY);
  }

  document.addEventListener("click", onClick);
  document.addEventListener("auxclick", onClick);
  rates();
  setTimeout(loop, EVERY);
  setInterval(draw, PICTURE_EVERY);
})();

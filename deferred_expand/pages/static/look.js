// Before the first paint: the colours of the Airflow around the page, which is of the same origin.
(function () {
  "use strict";
  const root = document.documentElement;
  const names = [
    "bg", "bg-subtle", "fg", "fg-muted", "border", "fg-info", "success-solid", "failed-solid", "running-solid",
    "queued-solid", "skipped-solid", "none-solid",
  ];
  let host = null;
  try {
    host = window.parent !== window ? window.parent.document.documentElement : null;
  } catch (error) {
    host = null; // of another origin
  }

  function take() {
    const dark = host ? host.classList.contains("dark") : matchMedia("(prefers-color-scheme: dark)").matches;
    root.classList.toggle("dark", dark);
    if (!host) return;
    root.lang = host.lang || "en";
    root.dir = host.dir || "ltr";
    const theirs = window.parent.getComputedStyle(host);
    for (const name of names) {
      const value = theirs.getPropertyValue("--chakra-colors-" + name).trim();
      if (value) root.style.setProperty("--airflow-" + name, value);
    }
  }

  take();
  if (host) {
    const observer = new MutationObserver(take);
    observer.observe(host, { attributes: true, attributeFilter: ["class", "lang", "dir"] });
    addEventListener("pagehide", () => observer.disconnect());
  }
})();

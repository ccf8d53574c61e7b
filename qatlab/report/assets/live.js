// A served page asks whether runs have changed, and is loaded again where they have.

const EVERY = 2000; // milliseconds

function watch(place) {
  if (!data.version) return; // a file
  place.hidden = false;
  place.textContent = "live";
  setInterval(async () => {
    let version;
    try {
      version = await (await fetch("version")).json();
    } catch {
      place.classList.add("lost");
      place.textContent = "the server has ended";
      return;
    }
    place.classList.remove("lost");
    place.textContent = "live";
    const writing = document.activeElement === byId("words");
    if (version !== data.version && !writing && !printing) location.reload();
  }, EVERY);
}

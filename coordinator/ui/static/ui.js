"use strict";
const byId = (id) => document.getElementById(id);
const cards = byId("cards");

function say(text) {
  const problem = byId("problem");
  problem.textContent = text;
  problem.hidden = !text;
}

async function send(file) {
  const drop = byId("drop");
  if (file.size > Number(drop.dataset.limit)) return say(`${file.name}: ${drop.dataset.tooLarge}`);
  try {
    const headers = { "X-File-Name": encodeURIComponent(file.name) };
    const answer = await fetch("/pictures", { method: "POST", body: file, headers });
    if (!answer.ok) {
      const error = await answer.json().catch(() => ({ message: answer.statusText }));
      say(`${file.name}: ${error.message} ${error.advice || ""}`);
    }
  } catch {
    say(`${file.name}: ${drop.dataset.failed}`);
  }
}

async function sendAll(files) {
  say("");
  for (const file of files) await send(file); // one at a time: a hundred files must not open a hundred connections
}

function show({ id, ended, html }) {
  let card = byId(`picture-${id}`);
  if (!card) {
    card = document.createElement("li");
    card.className = "card";
    card.id = `picture-${id}`;
    cards.prepend(card);
  }
  card.toggleAttribute("data-ended", ended);
  const chosen = card.querySelector("input[name=report]:checked");
  card.innerHTML = html; // rendered and escaped by the server
  if (chosen) card.querySelector("input[name=report]").checked = true;
  refresh();
}

function refresh() {
  byId("empty").hidden = cards.children.length > 0;
  byId("actions").hidden = cards.querySelectorAll("input[name=report]").length < 2;
}

if (cards) {
  const drop = byId("drop");
  const files = byId("files");
  files.addEventListener("change", async () => {
    await sendAll([...files.files]);
    files.value = "";
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    sendAll([...event.dataTransfer.files]);
  });
  cards.addEventListener("click", async (event) => {
    const id = event.target.dataset.remove;
    if (!id) return;
    await fetch(`/pictures/${id}`, { method: "DELETE" });
    byId(`picture-${id}`).remove();
    refresh();
  });
  cards.closest("form").addEventListener("submit", (event) => {
    const chosen = cards.querySelectorAll("input[name=report]:checked").length;
    if (chosen >= 2 && chosen <= 4) return;
    event.preventDefault();
    say(cards.dataset.choose);
  });
  const events = new EventSource("/events");
  let lost = false;
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => (lost = true);
  events.onopen = () => lost && location.reload(); // what happened meanwhile is in the page
}

function watchBatch() {
  const batch = byId("batch");
  if (!batch || !batch.dataset.watch) return;
  const events = new EventSource(batch.dataset.watch);
  events.onmessage = async (event) => {
    if (JSON.parse(event.data).ended) events.close();
    const chosen = new Set([...document.querySelectorAll("#batch input:checked")].map((box) => box.value));
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
    const fresh = page.getElementById("batch");
    byId("batch").replaceWith(fresh);
    for (const box of fresh.querySelectorAll("input[type=checkbox]")) box.checked = chosen.has(box.value);
  };
}
watchBatch();

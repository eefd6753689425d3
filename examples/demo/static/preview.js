// Shows one preview in the page's frame.
//
//   1. ask our own app for a ticket            POST /projects/{id}/preview
//   2. exchange it at the preview's host       POST {origin}/.well-known/preview-proxy/session
//   3. see that the browser kept the cookie    GET  {origin}/.well-known/preview-proxy/check
//   4. only then make the frame
//
// The ticket lives for seconds, works once and travels in a body, so no address ever holds it.

const ENDPOINTS = "/.well-known/preview-proxy";
const RENEW_AFTER = 0.8 * 3_600_000;   // a gate lasts an hour
const CHECK_EVERY = 10_000;

const main = document.querySelector("main");
const state = document.querySelector("#state");
const notice = document.querySelector("#notice");
const { project } = main.dataset;

let origin;
let renewAt = 0;

class Refused extends Error {
  constructor(message, advice, { signedOut = false } = {}) {
    super(message);
    Object.assign(this, { advice, signedOut });
  }
}

// Steps 1 to 3. Resolves to the preview's address.
async function openGate() {
  const { origin: host, ticket, path } = await (await ask(`/projects/${project}/preview`, { method: "POST" })).json();
  origin = host;

  const exchanged = await fetch(`${origin}${ENDPOINTS}/session`, {
    method: "POST",
    credentials: "include",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ticket }),
  });
  if (exchanged.status !== 204) throw new Refused("The preview did not take the ticket.", "Reload this page.");

  if (!(await gateHolds())) {
    throw new Refused(
      "Your browser did not keep the preview’s cookie.",
      "Allow cookies for this site in your browser’s privacy settings, then try again.",
    );
  }
  renewAt = Date.now() + RENEW_AFTER;
  return new URL(path, origin).href;
}

// Our own app's answer.
async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) throw new Refused("You are signed out.", "Sign in again to see this preview.", { signedOut: true });
  if (answer.status === 404) throw new Refused("This preview is not yours to open.", "Ask the project’s owner for access.");
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

async function gateHolds() {
  const checked = await fetch(`${origin}${ENDPOINTS}/check`, { credentials: "include" });
  return checked.status === 204;
}

// Step 4, and the reload button.
async function load() {
  show("checking", "Checking access");
  try {
    frame(await openGate());
    show("live", "Live");
  } catch (error) {
    refuse(error);
  }
}

// While the page is in view: renew in time, and notice when access ends. A lost connection leaves the frame alone.
async function watch() {
  if (document.hidden || !main.querySelector("#preview")) return;
  try {
    await ask(`/projects/${project}`);
    if (Date.now() > renewAt || !(await gateHolds())) await openGate();
    show("live", "Live");
  } catch (error) {
    if (error instanceof Refused) refuse(error);
    else show("checking", "Reconnecting");
  }
}

function refuse(error) {
  const unreachable = new Refused("The preview cannot be reached.", "Is the server running? Try again in a moment.");
  const { message, advice, signedOut } = error instanceof Refused ? error : unreachable;
  frame(null);
  show("refused", "Refused");
  notice.querySelector("h2").textContent = message;
  notice.querySelector("p").textContent = advice;
  notice.querySelector("a").hidden = !signedOut;
  notice.querySelector("button").hidden = signedOut;
}

// A new frame each time: nothing of the old page survives, and no step is added to the browser's history.
function frame(address) {
  main.querySelector("#preview")?.remove();
  if (address === null) return;
  const preview = main.querySelector("template").content.firstElementChild.cloneNode();
  preview.src = address;
  main.prepend(preview);
}

function show(name, text) {
  state.dataset.state = name;
  state.querySelector("span").textContent = text;
  notice.hidden = name !== "refused";
}

for (const button of document.querySelectorAll("[data-reload]")) button.onclick = load;
document.onvisibilitychange = watch;
setInterval(watch, CHECK_EVERY);
load();

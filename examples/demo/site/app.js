// The page's own client: live reload over a WebSocket, a clock over server-sent events, a guest book over fetch.

const $ = (id) => document.getElementById(id);

function element(name, text, className = "") {
  const node = document.createElement(name);
  node.textContent = text;
  node.className = className;
  return node;
}

// Live reload. A style sheet is swapped in place; anything else loads the page again.

function connect(again = false) {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/live`);
  socket.onopen = () => {
    if (again) location.reload();
    show("connected", "Connected");
  };
  socket.onmessage = ({ data }) => {
    const changed = JSON.parse(data);
    if (changed.every((name) => name.endsWith(".css"))) swapStyles(changed);
    else location.reload();
  };
  socket.onclose = () => {
    show("closed", "Reconnecting");
    setTimeout(connect, 1000, true);
  };
}

function show(state, text) {
  $("live").dataset.state = state;
  $("live-text").textContent = text;
}

function swapStyles(changed) {
  for (const link of document.querySelectorAll("link[rel=stylesheet]")) {
    const url = new URL(link.href);
    if (!changed.includes(url.pathname.slice(1))) continue;
    url.search = Date.now();
    const fresh = link.cloneNode();
    fresh.href = url;
    fresh.onload = () => link.remove();
    link.after(fresh);
  }
  $("live-note").textContent = `Swapped ${changed.join(", ")} at ${new Date().toLocaleTimeString()}`;
}

// Clock

function listen() {
  let count = 0;
  new EventSource("/events").onmessage = ({ data }) => {
    $("clock").textContent = new Date(data).toLocaleTimeString([], { hour12: false });
    $("clock").dateTime = data;
    $("ticks").textContent = `${(count += 1)} received`;
  };
}

// What reached the machine

const UNSEEN = [
  ["Acme Studio’s session cookie", "acme_session", (seen) => seen.cookies.includes("acme_session")],
  ["The preview’s gate cookie", "pp-development", (seen) => seen.cookies.some((name) => /^(__Host-|pp-)/i.test(name))],
  ["The provider’s preview token", "x-nullspace-preview-proxy-token", (seen) => seen.headers.some((name) => name.startsWith("x-nullspace-"))],
  ["Any ticket or token in an address", document.URL, () => /ticket|token/i.test(document.URL)],
];

async function inspect() {
  const seen = await (await fetch("/headers")).json();
  $("host").textContent = seen.host;
  $("unseen").replaceChildren(
    ...UNSEEN.map(([label, name, reached]) => {
      const item = element("li", "", reached(seen) ? "seen" : "");
      item.append(element("span", label), element("code", name));
      return item;
    }),
  );
  $("seen").replaceChildren(
    ...seen.headers.map((name) => element("li", name)),
    ...seen.cookies.map((name) => element("li", `cookie: ${name}`, "cookie")),
  );
}

// Guest book. Entries are other people's words: they are only ever set as text.

function showGuests(guests) {
  const entries = guests.map(({ name, message }) => {
    const item = document.createElement("li");
    item.append(element("b", name), element("p", message));
    return item;
  });
  $("guests").replaceChildren(...(entries.length ? entries : [element("li", "Nobody has signed yet.", "empty")]));
}

$("guestbook").onsubmit = async (event) => {
  event.preventDefault();
  const form = event.target;
  const response = await fetch("/guestbook", { method: "POST", body: new URLSearchParams(new FormData(form)) });
  if (!response.ok) {
    $("guestbook-result").textContent = `The machine answered ${response.status}.`;
    return;
  }
  const { bytes, guests } = await response.json();
  $("guestbook-result").textContent = `Sent ${bytes} bytes. Thank you!`;
  form.reset();
  showGuests(guests);
};

connect();
listen();
inspect();
showGuests(await (await fetch("/guestbook")).json());

// The chat page: what a person does, and what follows from it.

import { ApiError, listModels } from "./api.js";
import { Conversation, Store, exported, imported } from "./conversations.js";
import { setUpKey, setUpSettings } from "./dialogs.js";
import { byId, element } from "./dom.js";
import { generate } from "./generation.js";
import { apiKey, lastSettings, rememberSettings, showTheme } from "./preferences.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";

const SAVE_INTERVAL = 1000; // milliseconds between two savings of a growing answer
const UNKNOWN_KEY = "The server does not know this key.";

let models = [];
let current = new Conversation({ settings: lastSettings() });
let running = null; // { conversation, message, controller } of the answer that is being written

const store = new Store(() => showNotice("This browser stores no more conversations: export and delete some.", null));
let conversations = store.list();
const askForKey = setUpKey();
const thread = new Thread(byId("thread"), byId("messages"), byId("latest"), { edit, retry, resume, show });
const sidebar = new Sidebar({ open, rename, remove });
setUpSettings({ current: () => current.settings, onChange: () => saveIfBegun(current) });

function draw() {
  thread.show(current, running?.message);
  sidebar.show(conversations, current);
  byId("welcome").hidden = current.messages.length > 0;
  byId("send").hidden = running !== null;
  byId("stop").hidden = running === null;
  document.title = current.messages.length ? `${current.name} – Chat` : "Chat";
  drawModel();
}

// Conversations

function open(conversation) {
  current = conversation;
  for (const message of current.messages) {
    if (message.role === "assistant" && !message.finish && message !== running?.message) message.finish = "stopped";
  }
  sidebar.toggle(false);
  draw();
  thread.toEnd();
  byId("prompt").focus();
}

function begin() {
  open(new Conversation({ settings: lastSettings() }));
}

function rename(conversation, title) {
  conversation.title = title || null;
  store.save(conversation);
  draw();
}

function remove(conversation) {
  if (running?.conversation === conversation) running.controller.abort();
  store.remove(conversation);
  conversations = conversations.filter((other) => other !== conversation);
  if (conversation === current) begin();
  else draw();
}

function save(conversation) {
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
  store.save(conversation);
}

function saveIfBegun(conversation) {
  if (conversations.includes(conversation)) store.save(conversation);
}

// Messages

function send(text) {
  current.add("user", text);
  answer(current.add("assistant", ""));
}

function edit(message, text) {
  if (running) return;
  current.add("user", text, message.parent);
  answer(current.add("assistant", ""));
}

function retry(message) {
  if (running) return;
  if (message.error && !message.content) answer(message);
  else answer(current.add("assistant", "", message.parent));
}

function resume(message) {
  if (!running) answer(message);
}

function show(message) {
  current.show(message);
  saveIfBegun(current);
  draw();
}

async function answer(message) {
  const conversation = current;
  const controller = new AbortController();
  const model = byId("model").value || models[0]?.id;
  Object.assign(message, { finish: null, error: null, model });
  running = { conversation, message, controller };
  save(conversation);
  draw();
  thread.toEnd();
  announce("The answer is being written.");
  let saved = performance.now();
  const onGrowth = () => {
    thread.grow(message);
    if (performance.now() - saved > SAVE_INTERVAL) {
      saved = performance.now();
      saveIfBegun(conversation);
    }
  };
  const before = conversation.path.slice(0, conversation.path.findIndex(({ id }) => id === message.id));
  const options = { settings: conversation.settings, model, key: apiKey().key, signal: controller.signal, onGrowth };
  let failure = null;
  try {
    await generate(message, before, options);
    announce(message.content);
  } catch (error) {
    failure = fail(message, error);
  } finally {
    running = null;
    saveIfBegun(conversation);
    draw();
  }
  if (failure?.status === 401) askForKey(apiKey().key ? UNKNOWN_KEY : "", () => loadModels().then(() => running || answer(message)));
  if (failure?.status === 404) loadModels();
}

/** Says in a message why it ends here. */
function fail(message, error) {
  if (error.name === "AbortError") {
    message.finish = "stopped";
    announce("Stopped.");
    return null;
  }
  message.finish = "failed";
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  message.error = error instanceof ApiError ? `${error.message}${wait}` : "This page failed; its console has the reason.";
  announce(message.error);
  if (!(error instanceof ApiError)) console.error(error);
  return error;
}

function stop() {
  running?.controller.abort();
}

// Models

async function loadModels() {
  try {
    models = await listModels(apiKey().key);
    byId("notice").hidden = true;
  } catch (error) {
    if (error.status === 401) {
      showNotice("This server needs an API key.", "Enter it", () => askForKey("", loadModels));
      if (apiKey().key) askForKey(UNKNOWN_KEY, loadModels);
    } else if (error.status === 503) {
      showNotice("The model is being loaded …", null);
      setTimeout(loadModels, 1000 * (error.retryAfter ?? 2));
    } else {
      showNotice(error.message, "Try again", loadModels);
    }
  }
  drawModel();
}

function drawModel() {
  const select = byId("model");
  const name = ({ id, parent }) => (parent ? `${id} (adapter of ${parent})` : id);
  select.replaceChildren(...models.map((model) => element("option", { value: model.id }, name(model))));
  select.hidden = models.length === 0;
  const wanted = current.settings.model;
  if (models.some(({ id }) => id === wanted)) select.value = wanted;
  const context = models.find(({ id }) => id === select.value)?.max_model_len;
  const usage = current.path.findLast((message) => message.usage)?.usage;
  byId("context").hidden = !context;
  if (!context) return;
  const used = usage?.total_tokens ?? 0;
  byId("context-meter").value = Math.min(1, used / context);
  byId("context-text").textContent = `${used.toLocaleString()} / ${context.toLocaleString()} tokens`;
}

// What is said and asked

function announce(text) {
  byId("status").textContent = text;
}

function showNotice(text, action, act) {
  byId("notice").hidden = false;
  byId("notice-text").textContent = text;
  byId("notice-action").hidden = !action;
  byId("notice-action").textContent = action ?? "";
  byId("notice-action").onclick = act ?? null;
}

function download(list, name) {
  const url = URL.createObjectURL(new Blob([exported(list)], { type: "application/json" }));
  element("a", { href: url, download: `${name}-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function importFile(file) {
  try {
    const added = imported(await file.text());
    added.forEach(save);
    if (added.length) open(added[0]);
    announce(`${added.length} conversations imported.`);
  } catch (error) {
    showNotice(error.message, "Close", () => (byId("notice").hidden = true));
  }
}

function fitPrompt() {
  const prompt = byId("prompt");
  prompt.rows = 1;
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("prompt").value.trim();
  if (!text || running) return;
  byId("prompt").value = "";
  fitPrompt();
  send(text);
});
byId("prompt").addEventListener("input", fitPrompt);
byId("prompt").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !byId("prompt").value && !running) {
    const last = current.path.findLast(({ role }) => role === "user");
    if (last) {
      event.preventDefault();
      thread.edit(last);
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    begin();
  }
});
byId("stop").addEventListener("click", stop);
byId("new").addEventListener("click", begin);
byId("model").addEventListener("change", (event) => {
  current.settings.model = event.target.value;
  rememberSettings(current.settings);
  saveIfBegun(current);
  drawModel();
});
byId("open-key").addEventListener("click", () => {
  byId("settings").close();
  askForKey("", loadModels);
});
byId("export").addEventListener("click", () => download(conversations, "chats"));
byId("export-one").addEventListener("click", () => download([current], "chat"));
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", ({ target }) => {
  if (target.files.length) importFile(target.files[0]);
  target.value = "";
});
addEventListener("storage", ({ key }) => {
  if (!store.isOurs(key)) return;
  const ours = running?.conversation;
  conversations = store.list().map((one) => (one.id === ours?.id ? ours : one));
  current = conversations.find(({ id }) => id === current.id) ?? current;
  draw();
});
addEventListener("pagehide", () => running && saveIfBegun(running.conversation));

showTheme();
open(conversations[0] ?? current);
loadModels();

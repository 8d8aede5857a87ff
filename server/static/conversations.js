// Conversations and how this browser stores them. A conversation is a tree: an edited or repeated message stands beside
// the one before it, and nothing is lost.

const PREFIX = "llm-chat:";
const FORMAT = "llm-chat";
const TITLE_LENGTH = 60;

export class Conversation {
  /** `messages` is in the order in which they came, so that a parent stands before its children. `leaf` ends the path shown. */
  constructor({ id = newId(), title = null, created = Date.now(), updated = created, settings = {}, messages = [], leaf = null }) {
    Object.assign(this, { id, title, created, updated, settings, messages, leaf });
  }

  find(id) {
    return this.messages.find((message) => message.id === id);
  }

  /** The messages shown, from the first to the last. */
  get path() {
    const path = [];
    for (let message = this.find(this.leaf); message; message = this.find(message.parent)) path.unshift(message);
    return path;
  }

  get name() {
    const first = this.messages[0]?.content.trim().split("\n")[0] ?? "";
    return this.title || (first.length > TITLE_LENGTH ? `${first.slice(0, TITLE_LENGTH)}…` : first) || "New conversation";
  }

  /** Adds a message behind another, and shows it. */
  add(role, content, parent = this.leaf) {
    const message = { id: newId(), parent, role, content };
    this.messages.push(message);
    this.leaf = message.id;
    return message;
  }

  /** The messages that stand in the same place, this one included. */
  alternatives(message) {
    return this.messages.filter((other) => other.parent === message.parent);
  }

  /** Shows this message and the latest of what follows it. */
  show(message) {
    this.leaf = message.id;
    for (let next = message; next; next = this.messages.findLast((other) => other.parent === this.leaf)) this.leaf = next.id;
  }
}

/** The conversations of this browser, the latest first. */
export class Store {
  /** `onFull` is called when the browser takes no more. */
  constructor(onFull) {
    this.onFull = onFull;
  }

  list() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    const conversations = keys.map((key) => this.#read(key)).filter((conversation) => conversation !== null);
    return conversations.sort((a, b) => b.updated - a.updated);
  }

  save(conversation) {
    conversation.updated = Date.now();
    try {
      localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    } catch {
      this.onFull();
    }
  }

  remove(conversation) {
    localStorage.removeItem(PREFIX + conversation.id);
  }

  isOurs(key) {
    return key === null || key.startsWith(PREFIX);
  }

  #read(key) {
    try {
      return new Conversation(checked(JSON.parse(localStorage.getItem(key))));
    } catch {
      return null; // another version's, or damaged
    }
  }
}

/** Conversations as a file. */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), conversations }, null, 2);
}

/** The conversations of such a file; throws an Error that says what is wrong with it. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("The file was not exported by this page: it has no conversations.");
  }
  if (file.version !== 1) throw new Error(`The file is of version ${file.version}; this page reads version 1.`);
  return file.conversations.map((data) => new Conversation({ ...checked(data), id: newId() }));
}

/** What a conversation consists of, taken from data of any origin. */
function checked({ id, title, created, updated, settings, messages, leaf }) {
  const known = new Set();
  const isText = (value) => typeof value === "string";
  for (const { id: message, parent, role, content } of messages) {
    const isWhole = isText(message) && isText(content) && (role === "user" || role === "assistant");
    if (!isWhole || known.has(message) || !(parent === null || known.has(parent))) {
      throw new Error("A conversation in the file is damaged.");
    }
    known.add(message);
  }
  if (!isText(id) || !(leaf === null || known.has(leaf))) throw new Error("A conversation in the file is damaged.");
  const time = (value) => (Number.isFinite(value) ? value : Date.now());
  const numbers = Object.entries(settings?.sampling ?? {}).filter(([, value]) => Number.isFinite(value));
  return {
    id,
    title: isText(title) ? title : null,
    created: time(created),
    updated: time(updated),
    settings: {
      model: isText(settings?.model) ? settings.model : null,
      system: isText(settings?.system) ? settings.system : "",
      sampling: Object.fromEntries(numbers),
    },
    messages,
    leaf,
  };
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

// The messages of the conversation that is shown.

import { copyButton, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";

const NEAR_END = 80; // pixels from the end at which the view follows a growing answer
const ENDS = {
  length: "Cut off at its token limit.",
  stopped: "Stopped.",
};

export class Thread {
  #views = new Map(); // message id -> MessageView
  #frame = null;
  #follows = true;

  /** `actions`: edit(message, text), retry(message), resume(message), show(message). */
  constructor(scroller, list, latest, actions) {
    Object.assign(this, { scroller, list, latest, actions });
    scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    latest.addEventListener("click", () => this.toEnd());
  }

  /** Shows the path of a conversation. Messages that were shown before keep their elements. */
  show(conversation, running) {
    const views = new Map();
    const items = conversation.path.map((message, at, { length }) => {
      const view = this.#views.get(message.id) ?? new MessageView(message, this.actions);
      view.message = message;
      view.update({ alternatives: conversation.alternatives(message), isRunning: message === running, isLast: at === length - 1 });
      views.set(message.id, view);
      return view.item;
    });
    this.#views = views;
    this.list.replaceChildren(...items);
  }

  /** Shows what a message has gained, with the next frame. */
  grow(message) {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#views.get(message.id)?.grow();
      if (this.#follows) this.toEnd();
    });
  }

  edit(message) {
    this.#views.get(message.id)?.edit();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#follows = true;
    this.latest.hidden = true;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.latest.hidden = this.#follows;
  }
}

class MessageView {
  #markdown = null;

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.isUser = message.role === "user";
    this.body = element("div", { class: "body" });
    this.foot = element("div", { class: "foot" });
    this.item = element(
      "li",
      { class: `message ${message.role}` },
      element("h2", { class: "visually-hidden" }, this.isUser ? "You" : "Assistant"),
      this.body,
      this.foot,
    );
    if (!this.isUser) this.#markdown = new MarkdownView(this.body);
    this.grow();
  }

  grow() {
    if (this.isUser) this.body.textContent = this.message.content;
    else this.#markdown.update(this.message.content);
    if (this.message.content) this.item.classList.remove("waiting");
  }

  update({ alternatives, isRunning, isLast }) {
    this.grow();
    this.item.setAttribute("aria-busy", String(isRunning));
    this.item.classList.toggle("waiting", isRunning && !this.message.content);
    this.foot.replaceChildren(...(isRunning ? [] : this.#footParts(alternatives, isLast)));
  }

  #footParts(alternatives, isLast) {
    const { message, actions } = this;
    const button = (label, act) => element("button", { type: "button", class: "quiet", onclick: act }, label);
    const parts = [];
    const note = message.error ?? ENDS[message.finish];
    if (note) parts.push(element("p", { class: message.error ? "problem" : "note" }, note));
    if (alternatives.length > 1) parts.push(this.#switcher(alternatives));
    if (this.isUser) parts.push(button("Edit", () => this.edit()));
    else parts.push(button(message.error ? "Try again" : "Retry", () => actions.retry(message)));
    if (isLast && ["length", "stopped"].includes(message.finish) && message.content) {
      parts.push(button("Continue", () => actions.resume(message)));
    }
    if (message.content) parts.push(copyButton(() => message.content));
    if (message.usage) parts.push(element("span", { class: "figures" }, figures(message)));
    return parts;
  }

  #switcher(alternatives) {
    const at = alternatives.indexOf(this.message);
    const step = (label, sign, by) =>
      element(
        "button",
        { type: "button", class: "quiet", "aria-label": label, disabled: !alternatives[at + by], onclick: () => this.actions.show(alternatives[at + by]) },
        sign,
      );
    const count = element("span", {}, `${at + 1} / ${alternatives.length}`);
    return element("span", { class: "switcher" }, step("Version before", "‹", -1), count, step("Next version", "›", 1));
  }

  /** Puts a field in place of the message, until it is sent again or left as it is. */
  edit() {
    const { message, actions } = this;
    const area = element("textarea", { "aria-label": "Edit the message", rows: Math.min(12, message.content.split("\n").length + 1) });
    area.value = message.content;
    const close = () => {
      this.grow();
      this.foot.hidden = false;
      this.foot.querySelector("button:last-of-type")?.focus();
    };
    const send = () => {
      const text = area.value.trim();
      close();
      if (text) actions.edit(message, text);
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const buttons = element(
      "div",
      { class: "buttons" },
      element("button", { type: "button", onclick: close }, "Cancel"),
      element("button", { type: "button", class: "primary", onclick: send }, "Send"),
    );
    this.body.replaceChildren(area, buttons);
    this.foot.hidden = true;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

function figures({ usage, rate, firstToken, model }) {
  const parts = [`${usage.completion_tokens} token${usage.completion_tokens === 1 ? "" : "s"}`];
  if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  if (firstToken) parts.push(`first after ${firstToken.toFixed(2)} s`);
  if (model) parts.push(model);
  return parts.join(" · ");
}

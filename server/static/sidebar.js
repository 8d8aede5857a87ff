// The list of conversations beside the one that is shown.

import { byId, element } from "./dom.js";

export class Sidebar {
  #isDrawn = null; // what is shown, so that an equal list is not drawn anew

  /** `actions`: open(conversation), rename(conversation, title), remove(conversation). */
  constructor(actions) {
    this.actions = actions;
    byId("menu").addEventListener("click", () => this.toggle());
    byId("shade").addEventListener("click", () => this.toggle(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toggle(false);
    });
  }

  /** On narrow screens the list lies over the conversation. */
  toggle(isOpen = !document.body.classList.contains("with-sidebar")) {
    const wasOpen = document.body.classList.contains("with-sidebar");
    document.body.classList.toggle("with-sidebar", isOpen);
    byId("menu").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) byId("new").focus();
    else if (wasOpen) byId("menu").focus();
  }

  show(conversations, current) {
    const drawn = JSON.stringify([current.id, conversations.map(({ id, name }) => [id, name])]);
    if (drawn === this.#isDrawn) return;
    this.#isDrawn = drawn;
    byId("conversations").replaceChildren(...conversations.map((one) => this.#item(one, one.id === current.id)));
  }

  #item(conversation, isCurrent) {
    const { actions } = this;
    const open = element(
      "button",
      { type: "button", class: "open", "aria-current": isCurrent ? "true" : null, title: conversation.name, onclick: () => actions.open(conversation) },
      conversation.name,
    );
    const small = (label, sign, act) =>
      element("button", { type: "button", class: "small", "aria-label": `${label}: ${conversation.name}`, title: label, onclick: act }, sign);
    const item = element("li", { class: isCurrent ? "current" : null }, open);
    const remove = () => {
      if (confirm(`Delete “${conversation.name}”?`)) actions.remove(conversation);
    };
    item.append(small("Rename", "✎", () => this.#rename(item, conversation)), small("Delete", "✕", remove));
    return item;
  }

  #rename(item, conversation) {
    const input = element("input", { type: "text", "aria-label": "Title", maxlength: "200" });
    input.value = conversation.name;
    let isDone = false;
    const finish = (title) => {
      if (isDone) return;
      isDone = true;
      this.#isDrawn = null;
      this.actions.rename(conversation, title);
    };
    input.addEventListener("blur", () => finish(input.value.trim()));
    input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter") finish(input.value.trim());
      else if (event.key === "Escape") finish(conversation.title);
      else return;
      event.stopPropagation();
    });
    item.replaceChildren(input);
    input.select();
  }
}

// The two dialogs: settings, and the API key.

import { byId, element } from "./dom.js";
import { SAMPLING, apiKey, rememberSettings, setApiKey, setTheme, theme } from "./preferences.js";

/** Wires the settings dialog. `current()` gives the settings of the conversation shown, `onChange` follows each change. */
export function setUpSettings({ current, onChange }) {
  const dialog = byId("settings");
  const inputs = new Map();
  for (const { name, label, min, max, step, hint } of SAMPLING) {
    const input = element("input", { id: `sampling-${name}`, type: "number", min, max, step, "aria-describedby": `hint-${name}` });
    const note = element("small", { id: `hint-${name}` }, hint);
    byId("sampling").append(element("label", { for: input.id }, label), input, note);
    inputs.set(name, input);
  }
  const read = () => {
    const settings = current();
    settings.system = byId("system").value;
    settings.sampling = {};
    for (const { name, min, max, step } of SAMPLING) {
      const value = inputs.get(name).valueAsNumber; // NaN where it is empty
      if (value >= min && value <= max) settings.sampling[name] = step === 1 ? Math.round(value) : value;
    }
    rememberSettings(settings);
    onChange();
  };
  byId("system").addEventListener("change", read);
  byId("sampling").addEventListener("change", read);
  byId("theme").addEventListener("change", (event) => setTheme(event.target.value));
  byId("open-settings").addEventListener("click", () => {
    const settings = current();
    byId("system").value = settings.system ?? "";
    for (const [name, input] of inputs) input.value = settings.sampling[name] ?? "";
    byId("theme").querySelector(`[value="${theme()}"]`).checked = true;
    dialog.showModal();
  });
  closesOutside(dialog);
}

/** Wires the key dialog and returns what opens it: with a problem where a request was refused, and what to do then. */
export function setUpKey() {
  const dialog = byId("key-dialog");
  let then = () => {};
  const ask = (problem = "", andThen = () => {}) => {
    const { key, remembered } = apiKey();
    byId("key").value = key;
    byId("key-remember").checked = remembered;
    byId("key-problem").textContent = problem;
    then = andThen;
    if (!dialog.open) dialog.showModal();
    byId("key").select();
  };
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(byId("key").value.trim(), byId("key-remember").checked);
    dialog.close();
    then();
  });
  byId("key-cancel").addEventListener("click", () => dialog.close());
  closesOutside(dialog);
  return ask;
}

function closesOutside(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

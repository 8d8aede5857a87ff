// What a person has chosen: sampling settings, theme, API key.

const CHOSEN = "llm-preferences";
const KEY = "llm-api-key";

/** Fields of the settings: their name in a request, and how an input's text becomes its value. Empty: the server's default. */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 always takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "Among the likeliest tokens of this probability" },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, hint: "Among so many of the likeliest tokens" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "Relative to the likeliest token" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.1, max: 2, step: 0.05, hint: "Above 1 avoids seen tokens" },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 1e6, step: 1, hint: "Tokens, as far as the context takes them" },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 53 - 1, step: 1, hint: "The same seed gives the same answer" },
];
const DEFAULTS = { model: null, system: "", sampling: { max_tokens: 1024 } };

/** The settings that a new conversation begins with: those chosen last. */
export function lastSettings() {
  return { ...structuredClone(DEFAULTS), ...chosen().settings };
}

export function rememberSettings(settings) {
  choose({ settings: structuredClone(settings) });
}

export function theme() {
  return chosen().theme ?? "auto";
}

export function setTheme(name) {
  choose({ theme: name });
  showTheme();
}

export function showTheme() {
  document.documentElement.dataset.theme = theme();
}

/** The API key, and whether it outlives this tab. */
export function apiKey() {
  const remembered = localStorage.getItem(KEY);
  return { key: remembered ?? sessionStorage.getItem(KEY) ?? "", remembered: remembered !== null };
}

export function setApiKey(key, remembered) {
  for (const storage of [localStorage, sessionStorage]) storage.removeItem(KEY);
  if (key) (remembered ? localStorage : sessionStorage).setItem(KEY, key);
}

function chosen() {
  try {
    return JSON.parse(localStorage.getItem(CHOSEN)) ?? {};
  } catch {
    return {};
  }
}

function choose(values) {
  try {
    localStorage.setItem(CHOSEN, JSON.stringify({ ...chosen(), ...values }));
  } catch {
    // A full store must not stop a conversation.
  }
}

// Settings of the model as a form, and as the fragment of a link.

const NUMBERS = ["pause", "temperature", "top_p", "density", "seed"];
const TEXTS = {
  pause: (value) => `${value} s`,
  temperature: (value) => Number(value).toFixed(2),
  top_p: (value) => Number(value).toFixed(2),
  density: (value) => (Number(value) ? `${value} notes/s` : "free"),
  volume: (value) => `${value} %`,
  touch: (value) => value,
};

const isSeed = (value) => Number.isSafeInteger(value) && value >= 0;

/** Returns the settings in a fragment such as "#seed=7&key=D+minor". */
export function readLink(fragment) {
  const entries = [...new URLSearchParams(fragment.slice(1))];
  const settings = entries.map(([name, text]) => [name, NUMBERS.includes(name) ? Number(text) : text]);
  return Object.fromEntries(settings.filter(([, value]) => !Number.isNaN(value)));
}

export function writeLink(settings) {
  return "#" + new URLSearchParams(settings);
}

/** The form. Elements outside of it belong to it by their attribute `form`. */
export class Controls {
  #form;
  #valid = new Map(); // field -> its last valid value

  /** @param {function(object)} onChange receives the settings that the player changed. */
  constructor(form, onChange) {
    this.#form = form;
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const field of form.elements) {
      field.addEventListener("input", () => this.#describe(field));
      field.addEventListener("change", () => {
        if (!(field.name in this.settings)) return;
        if (!field.checkValidity()) return this.#refuse(field);
        this.#accept(field);
        onChange({ [field.name]: this.settings[field.name] });
      });
      this.#describe(field);
    }
    form.elements.new_seed.addEventListener("click", () => {
      const seed = Math.floor(Math.random() * 1e6);
      this.show({ seed });
      onChange({ seed });
    });
  }

  /** All settings, in the types of the protocol. */
  get settings() {
    const names = [...NUMBERS, "mode", "hand_over", "key", "composer"];
    return Object.fromEntries(names.map((name) => {
      const { value } = this.#form.elements[name];
      return [name, NUMBERS.includes(name) ? Number(value) : value];
    }));
  }

  /** Shows settings, and returns those of them that are possible, within their bounds. */
  show(settings) {
    const names = Object.keys(settings).filter((name) => Object.hasOwn(this.settings, name));
    for (const name of names) {
      const field = this.#form.elements[name], before = field.value;
      field.value = settings[name];
      const isPossible = String(field.value) !== "" || settings[name] === "";
      if (!isPossible || (name === "seed" && !isSeed(settings.seed))) field.value = before;
      this.#accept(field);
    }
    const shown = this.settings;
    return Object.fromEntries(names.map((name) => [name, shown[name]]));
  }

  /** Offers what the server's message `ready` says that the model can do, and a key by another name. */
  offer({ composers, has_density, settings: { key } }) {
    const keys = this.#form.elements.key;
    if (![...keys.options].some((option) => option.value === key)) keys.append(new Option(key, key));
    this.#form.elements.density.closest(".field").hidden = !has_density;
    const select = this.#form.elements.composer;
    select.replaceChildren(select.options[0], ...composers.map((name) => new Option(name, name)));
    select.closest(".field").hidden = !composers.length;
  }

  #describe(field) {
    const text = TEXTS[field.name]?.(field.value);
    if (text === undefined) return;
    field.closest(".field").querySelector("output").value = text;
    field.setAttribute("aria-valuetext", text);
    field.style.setProperty("--part", (field.value - field.min) / (field.max - field.min));
  }

  #accept(field) {
    this.#valid.set(field, field.value);
    this.#describe(field);
  }

  /** Takes back a change. */
  #refuse(field) {
    field.reportValidity();
    field.value = this.#valid.get(field) ?? field.defaultValue;
  }
}

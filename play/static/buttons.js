// Buttons, their shortcuts, and where the focus goes.

import { takesText } from "./computer_keys.js";

const CONFIRM = 3000; // ms in which a second click counts

/** Calls actions, by the id of their button, at a click. */
export function bindButtons(actions) {
  for (const [id, action] of Object.entries(actions)) document.getElementById(id).addEventListener("click", action);
  // The mouse leaves the focus where it is, so that the computer's keys play on after a click.
  let isPointer = false;
  addEventListener("pointerdown", () => { isPointer = true; }, true);
  addEventListener("keydown", () => { isPointer = false; }, true);
  addEventListener("mousedown", (event) => {
    if (event.target.closest("button")) event.preventDefault();
  });
  addEventListener("change", (event) => {
    if (isPointer) event.target.blur();
  });
}

/** Clicks buttons, by their id, at keys of the computer; a control that has the focus takes Space and Enter itself. */
export function bindShortcuts(shortcuts) {
  addEventListener("keydown", (event) => {
    const { code, target } = event, button = document.getElementById(shortcuts[code]);
    if (!button || event.repeat || takesText(target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const isTaken = target.closest("button, dialog, input:not([type=range])") !== null;
    if (isTaken || button.disabled) return;
    event.preventDefault();
    button.click();
  });
}

/** Returns an action that needs a second click, for which the button asks. */
export function confirmed(button, action) {
  const label = button.querySelector(".label"), name = label.textContent;
  let timer = 0;
  const ask = (isAsking) => {
    button.classList.toggle("sure", isAsking);
    label.textContent = isAsking ? "Sure?" : name;
    clearTimeout(timer);
    if (isAsking) timer = setTimeout(ask, CONFIRM, false);
  };
  return () => {
    const isSure = button.classList.contains("sure");
    ask(!isSure);
    if (isSure) action();
  };
}

/** A pedal for fingers and the mouse, down while it is held. The computer's Enter and Space switch it. */
export function bindPedal(button, player) {
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    player.pedal(true, event.timeStamp);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    button.addEventListener(type, (event) => player.pedal(false, event.timeStamp));
  }
  button.addEventListener("click", (event) => {
    if (!event.detail) player.pedal(!player.isPedalDown, event.timeStamp);
  });
}

/** Opens and closes a panel, which covers the page in narrow windows. */
export function bindPanel(panel, opener, closer) {
  const toggle = (isOpen) => {
    panel.classList.toggle("open", isOpen);
    opener.setAttribute("aria-expanded", isOpen);
    if (isOpen) closer.focus();
    else if (panel.contains(document.activeElement)) opener.focus();
  };
  opener.addEventListener("click", () => toggle(!panel.classList.contains("open")));
  closer.addEventListener("click", () => toggle(false));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") toggle(false);
  });
}

// MIDI files: opened, dropped on the page and saved.

const LARGEST = 1 << 20; // bytes
const HEADER = "MThd";

/** Returns the bytes of a file, or throws an error with a sentence for the player. */
async function readMidi(file) {
  if (file.size > LARGEST) throw new Error(`${file.name} is too large. Open a MIDI file of at most 1 MB.`);
  const bytes = await file.arrayBuffer();
  const header = String.fromCharCode(...new Uint8Array(bytes, 0, Math.min(HEADER.length, bytes.byteLength)));
  if (header !== HEADER) throw new Error(`${file.name} is not a MIDI file. Open a file that ends in .mid.`);
  return bytes;
}

/**
 * Takes files from a dialog of the browser and from a drop anywhere on the page.
 * @param {HTMLInputElement} input of type file.
 * @param {object} handlers onFile(bytes), onError(text).
 */
export function takeFiles(input, { onFile, onError }) {
  const take = async (file) => {
    if (!file) return;
    try {
      onFile(await readMidi(file));
    } catch (error) {
      onError(error.message);
    }
  };
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = "";
  });
  const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    take(event.dataTransfer.files[0]);
  });
}

/** Downloads bytes as a file. */
export function download(bytes, name) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "audio/midi" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

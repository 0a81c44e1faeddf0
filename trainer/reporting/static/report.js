// Players that move along their piano rolls, and names of the notes below the pointer.

const NOTE_NAMES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
const players = [...document.querySelectorAll("audio")];

for (const player of players) {
  const sheet = player.closest(".sample").querySelector(".sheet"), head = sheet.querySelector(".head");
  const seconds = Number(sheet.dataset.seconds);
  const moveHead = () => {
    head.style.left = Math.min(100, 100 * player.currentTime / seconds) + "%";
    head.style.display = "block";
    if (!player.paused) requestAnimationFrame(moveHead);
  };
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    moveHead();
  });
  player.addEventListener("seeked", moveHead);
  sheet.addEventListener("click", (event) => {
    const box = sheet.getBoundingClientRect();
    player.currentTime = seconds * (event.clientX - box.left) / box.width;
    player.play().catch(() => {}); // Another click may come before it starts.
  });
}

for (const sheet of document.querySelectorAll(".sheet")) {
  const { low, high, seconds } = sheet.dataset;
  sheet.addEventListener("pointermove", (event) => {
    const box = sheet.getBoundingClientRect();
    const pitch = Math.floor(Number(high) - (event.clientY - box.top) / box.height * (high - low));
    const time = seconds * (event.clientX - box.left) / box.width;
    sheet.title = NOTE_NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1) + ", " + time.toFixed(1) + " s";
  });
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

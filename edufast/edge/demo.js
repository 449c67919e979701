// Sends pictures one after another to the server of this page, and shows its answers as text.
const drop = document.getElementById("drop");
const choose = document.getElementById("choose");
const answers = document.getElementById("answers");
let last = Promise.resolve();

function element(name, text, parent, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  parent.append(made);
  return made;
}

function show(answer, card) {
  const left = answer.exit === null ? "" : `, left after ${answer.exit} of its fragments`;
  element("p", `${answer.file}, ${answer.milliseconds.toFixed(2)} ms${left}`, card, "file");
  for (const { name, probability } of answer.classes) {
    const row = element("div", "", card, "answer");
    element("span", name, row);
    element("progress", "", row).value = probability;
    element("span", `${(100 * probability).toFixed(1)} %`, row);
  }
}

async function ask(picture) {
  const article = document.createElement("article");
  const image = element("img", "", article);
  image.src = URL.createObjectURL(picture);
  image.alt = "";
  const card = element("div", "", article);
  element("h2", picture.name, card);
  answers.prepend(article);
  const waiting = element("p", "…", card);
  try {
    const reply = await fetch("/predict", { method: "POST", body: picture });
    const found = await reply.json();
    waiting.remove();
    if (reply.ok) found.forEach((answer) => show(answer, card));
    else element("p", `No answer: ${found.error}`, card);
  } catch {
    waiting.textContent = "No answer: the server has ended, or the picture is too large.";
  }
}

function take(pictures) {
  for (const picture of pictures) last = last.then(() => ask(picture));
}

choose.addEventListener("change", () => {
  take([...choose.files]);
  choose.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take([...event.dataTransfer.files]);
});

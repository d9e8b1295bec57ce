"use strict";
// A cell of the confusion matrix opens its photos in a dialog; without this the page loses nothing else.
const data = JSON.parse(document.getElementById("data").textContent);
const opened = document.getElementById("opened");
const list = document.getElementById("opened-photos");
const more = document.getElementById("more");
const STEP = 60;
let rest = [];

function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function named(name) {
  const made = element("div");
  for (const part of name.split(/(?<=[_/])/)) made.append(part, element("wbr"));
  return made;
}

function thumbnail(place, name) {
  const frame = element("span", "", "thumb");
  if (place < 0) return frame;
  const image = element("img");
  [frame.style.width, frame.style.height] = data.shapes[place].map((side) => `${side}px`);
  image.alt = name;
  if (data.thumbs.length) {
    image.src = data.thumbs[place];
  } else {
    const perSheet = data.across * data.across;
    const within = place % perSheet;
    image.src = data.sheets[Math.floor(place / perSheet)];
    image.style.left = `${-data.side * (within % data.across)}px`;
    image.style.top = `${-data.side * Math.floor(within / data.across)}px`;
  }
  frame.append(image);
  return frame;
}

function showMore() {
  const first = list.children.length;
  for (const [name, , said, probability, place] of rest.splice(0, STEP)) {
    const item = element("li");
    item.append(thumbnail(place, name), element("b", `${data.classes[said]} ${probability.toFixed(1)}\u202f%`), named(name));
    item.tabIndex = -1;
    list.append(item);
  }
  more.hidden = !rest.length;
  more.textContent = `Show more (${rest.length})`;
  if (first) list.children[first].focus();
}

function open(truth, said) {
  rest = data.photos.filter((photo) => photo[1] === truth && photo[2] === said);
  const what = truth === said ? "recognised" : `taken for ${data.classes[said]}`;
  document.getElementById("opened-title").textContent = `${data.classes[truth]}, ${what}: ${rest.length}`;
  list.replaceChildren();
  showMore();
  opened.showModal();
}

for (const cell of document.querySelectorAll("button[data-truth]")) {
  cell.addEventListener("click", () => open(Number(cell.dataset.truth), Number(cell.dataset.said)));
}
more.addEventListener("click", showMore);
document.getElementById("close").addEventListener("click", () => opened.close());
opened.addEventListener("click", (event) => { if (event.target === opened) opened.close(); });

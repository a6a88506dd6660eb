// Returns the texts of the page whose contrast to what is behind them is below 4.5:1 (WCAG 2.2, 1.4.3), and how many texts there are.
// Texts of disabled controls are exempt.

const AA = 4.5;

function rgba(text) {
  const parts = text.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
  if (!parts) throw new Error(`not a colour that this check knows: ${text}`);
  return parts.slice(1, 5).map((part) => (part === undefined ? 1 : Number(part)));
}

// A colour with this opacity over an opaque one.
function over([red, green, blue], opacity, below) {
  return [red, green, blue].map((channel, index) => channel * opacity + below[index] * (1 - opacity));
}

function canvas() {
  const probe = document.createElement('div');
  document.body.append(probe);
  probe.style.color = 'Canvas';
  const [red, green, blue] = rgba(getComputedStyle(probe).color);
  probe.remove();
  return [red, green, blue];
}

const behind = (element) => (element.parentElement ? surface(element.parentElement) : canvasColour);

// What is painted where an element is, without its text.
function surface(element) {
  const colour = rgba(getComputedStyle(element).backgroundColor);
  return colour[3] === 1 ? colour.slice(0, 3) : over(colour, colour[3], behind(element));
}

function luminance(colour) {
  const [red, green, blue] = colour.map((channel) => channel / 255)
    .map((channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(element, colour) {
  let ground = surface(element);
  let ink = over(colour, colour[3], ground);
  for (let at = element; at; at = at.parentElement) {
    const opacity = Number(getComputedStyle(at).opacity);
    if (opacity === 1) continue;
    [ground, ink] = [over(ground, opacity, behind(at)), over(ink, opacity, behind(at))];
  }
  const [darker, lighter] = [luminance(ground), luminance(ink)].sort((a, b) => a - b);
  return (lighter + 0.05) / (darker + 0.05);
}

function isSeen(element) {
  const { width, height } = element.getBoundingClientRect();
  return element.checkVisibility({ visibilityProperty: true }) && width > 1 && height > 1 && !element.closest(':disabled, .unseen');
}

// An element, the text that it shows, and its colour.
function* texts() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (node.data.trim() && isSeen(element)) yield [element, node.data.trim(), getComputedStyle(element).color];
  }
  for (const field of document.querySelectorAll('input:not([type=radio]), textarea')) {
    const part = field.value ? null : '::placeholder';
    if (isSeen(field)) yield [field, field.value || field.placeholder, getComputedStyle(field, part).color];
  }
}

const canvasColour = canvas();
const all = [...texts()].map(([element, text, colour]) => [contrast(element, rgba(colour)), element, text]);
const faults = all.filter(([ratio]) => ratio < AA)
  .map(([ratio, element, text]) => `${ratio.toFixed(2)} ${element.localName}#${element.id}.${element.className} ${text.slice(0, 60)}`);
return { faults, texts: all.length };

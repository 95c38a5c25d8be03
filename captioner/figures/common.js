// Shared by the scripts of all pages.
const make = (tag, kind, ...inside) => {
  const element = document.createElement(tag);
  element.className = kind;
  element.append(...inside);
  return element;
};
const percent = (weight) => `${(100 * weight).toFixed(weight >= 0.0995 ? 0 : 1)} %`;

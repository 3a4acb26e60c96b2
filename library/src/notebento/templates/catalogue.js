const find = document.querySelector("input"), button = document.querySelector("button");
const groups = [...document.querySelectorAll(".group")].map(group => {
  const articles = [...group.querySelectorAll("article")];
  return { group, articles: articles.map(article => ({ article, text: (group.firstElementChild.textContent + article.textContent).toLowerCase() })) };
});
find.addEventListener("input", () => {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { group, articles } of groups) {
    for (const { article, text } of articles) article.hidden = !words.every(word => text.includes(word));
    group.hidden = articles.every(({ article }) => article.hidden);
    group.open = words.length > 0 && !group.hidden;
  }
});
button.addEventListener("click", () => {
  const open = groups.some(({ group }) => !group.open);
  for (const { group } of groups) group.open = open;
  button.textContent = open ? "close all" : "open all";
});

// The page of one image.
const explorer = explore(document.querySelector(".explorer"), JSON.parse(document.getElementById("data").textContent));

// The page of one photo.
const explorer = explore(document.querySelector(".explorer"), JSON.parse(document.getElementById("data").textContent));

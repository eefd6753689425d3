import { Counter } from "./Counter.jsx";

export function App() {
  return (
    <main>
      <h1>First</h1>
      <Counter />
    </main>
  );
}

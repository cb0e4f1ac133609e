package peer;

/** What is called. */
public interface Orders {
  /** Which instance answers: its port, and what it was asked. */
  String who(String question);
}

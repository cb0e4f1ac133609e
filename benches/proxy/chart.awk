# The ratios as a picture: a group of bars for each row, up to six of them in a panel, with what half of the rounds lie
# between.
END {
  split("#2f7ed8 #5aa9e6 #9bd0f5 #1f9d6b #5cc29a #a6e0c6", shades, " ")
  colour["nginx"] = "#7a7a7a"; colour["nginx-16k"] = "#b5b5b5"; colour["haproxy"] = "#b0874f"; colour["envoy"] = "#8e6bb0"
  for (i = 1; i <= contestants; i++) if (!(names[i] in colour)) colour[names[i]] = shades[builds++ % 6 + 1]
  shown = 3.2 # What is higher is cut off, with its figure beside it.
  wide = 900; left = 52; top = 20; tall = 280
  beside = kinds < 6 ? kinds : 6; panels = int((kinds + 5) / 6); panel_height = tall + 40
  group = (wide - left - 10) / beside; gap = 14; bar = (group - gap) / contestants
  most = 1.2
  for (r = 1; r <= kinds; r++)
    for (i = 1; i <= contestants; i++)
      if (high(rows[r], names[i], RATIO) * 1.08 > most) most = high(rows[r], names[i], RATIO) * 1.08
  if (most > shown) most = shown
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n",
    wide, panels * panel_height + 10 + 18 * int((contestants + 2) / 3)
  print "<title>CPU per request, ratio to " text(titles[base]) "</title>"
  print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
  for (p = 0; p < panels; p++) {
    bottom = top + tall + p * panel_height
    scale()
    for (r = p * beside + 1; r <= kinds && r <= (p + 1) * beside; r++) {
      x = left + (r - 1 - p * beside) * group + gap / 2
      printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-weight=\"bold\">%s</text>\n", x + (group - gap) / 2,
        bottom + 16, text(rows[r])
      for (i = 1; i <= contestants; i++) column(x + (i - 1) * bar, rows[r], names[i], colour[names[i]])
    }
  }
  for (i = 1; i <= contestants; i++) {
    x = left + ((i - 1) % 3) * 285; line = panels * panel_height + 16 + 18 * int((i - 1) / 3)
    printf "<rect x=\"%d\" y=\"%d\" width=\"11\" height=\"11\" fill=\"%s\"/>", x, line - 9, colour[names[i]]
    printf "<text x=\"%d\" y=\"%d\">%s</text>\n", x + 17, line, text(titles[names[i]])
  }
  print "</svg>"
}

# The lines of a panel, and what stands on its left.
function scale(    mark) {
  for (mark = 0; mark <= most; mark += 0.5) {
    printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", left, wide - 10, y(mark), y(mark),
      mark == 1 ? "#444" : "#ddd"
    printf "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.1f</text>\n", left - 6, y(mark) + 4, mark
  }
  printf "<text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\">CPU per request, %s = 1</text>\n",
    bottom - tall / 2, text(titles[base])
}

function y(ratio) { return bottom - (ratio > most ? most : ratio) / most * tall }

function column(x, row, name, fill,    ratio, middle) {
  ratio = median(row, name, RATIO)
  middle = x + bar * 0.45
  printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>", x, y(ratio), bar * 0.9,
    bottom - y(ratio), fill
  printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#222\"/>", middle, middle,
    y(low(row, name, RATIO)), y(high(row, name, RATIO))
  printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"9\">%.2f</text>\n", middle,
    y(high(row, name, RATIO)) - 3, ratio
}

function text(plain) {
  gsub(/&/, "\\&amp;", plain); gsub(/</, "\\&lt;", plain); gsub(/>/, "\\&gt;", plain)
  return plain
}

# What the looks at etcd tell: the most questions per second between two looks, and a picture of all of them.
NR > 1 && $1 > began {
  seconds = $1 - time
  steps++
  at[steps] = $1 - began; took[steps] = seconds
  rate["lists", steps] = ($2 - lists) / seconds
  rate["watches", steps] = ($3 - watches) / seconds
  for (kind in most) if (rate[kind, steps] > most[kind]) most[kind] = rate[kind, steps]
}
BEGIN { most["lists"] = most["watches"] = 0 }
{ time = $1; lists = $2; watches = $3 }
END {
  printf "\n| %d services | |\n|---|---|\n", services
  printf "| memory of each | %.1f KiB |\n", (many - one) / services
  printf "| memory of a gateway with one | %.1f MiB |\n", one / 1024
  printf "| all lists are there after | %.2f s |\n", ready - began
  printf "| most lists asked for per second | %.0f |\n", most["lists"]
  printf "| most watches begun per second | %.0f |\n", most["watches"]
  if (picture) draw()
}

function draw(    kind, i, span, left, wide, tall, top) {
  left = 60; wide = 720; tall = 200; top = 20
  highest = most["lists"] > most["watches"] ? most["lists"] : most["watches"]
  if (highest == 0) highest = 1
  span = ready - began
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 280\" font-family=\"sans-serif\" font-size=\"11\">\n" >picture
  printf "<title>Questions to etcd at the start with %d services</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", services >picture
  for (i = 0; i <= 4; i++) {
    printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>", left, left + wide, top + tall * i / 4, top + tall * i / 4 >picture
    printf "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.0f</text>\n", left - 6, top + tall * i / 4 + 4, highest * (4 - i) / 4 >picture
    printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.2f s</text>\n", left + wide * i / 4, top + tall + 16, span * i / 4 >picture
  }
  line("lists", "#2f7ed8"); line("watches", "#1f9d6b")
  printf "<text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\">questions per second</text>\n", top + tall / 2 >picture
  printf "<text x=\"%d\" y=\"262\" fill=\"#2f7ed8\">lists</text><text x=\"%d\" y=\"262\" fill=\"#1f9d6b\">watches</text>", left, left + 60 >picture
  printf "<text x=\"%d\" y=\"262\">%d services, from the start of the program until all lists are there</text>\n</svg>\n", left + 140, services >picture
}

# A step for each look.
function line(kind, colour,    i, path, from) {
  path = "M60 220"
  for (i = 1; i <= steps; i++) {
    from = at[i] - took[i] > 0 ? at[i] - took[i] : 0
    path = path sprintf(" L%.1f %.1f L%.1f %.1f", x(from), y(rate[kind, i]), x(at[i]), y(rate[kind, i]))
  }
  printf "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", path, colour >picture
}

function x(seconds) { return 60 + 720 * (seconds > ready - began ? 1 : seconds / (ready - began)) }
function y(rate) { return 220 - 200 * rate / highest }

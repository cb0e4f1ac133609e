# The results of all rounds as a table of medians and a chart. The ratio is the median of the rounds' ratios: a machine that
# is slow for half a minute is so for all of a round, as a rule. First file: name and title; second: what was measured.
BEGIN { FS = "\t" }
FNR == 1 && NR > 1 { FS = " "; $0 = $0 }
FILENAME == "-" { names[++contestants] = $1; titles[$1] = $2; next }
{
  count[$1]++
  for (field = 2; field <= 5; field++) value[$1, field, count[$1]] = $field
}

function median(name, field,    n, i, j, kept, sorted) {
  n = count[name]
  for (i = 1; i <= n; i++) {
    kept = value[name, field, i]
    for (j = i - 1; j >= 1 && sorted[j] > kept; j--) sorted[j + 1] = sorted[j]
    sorted[j + 1] = kept
  }
  return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function range(name, field,    i, low, high) {
  low = high = value[name, field, 1]
  for (i = 2; i <= count[name]; i++) {
    if (value[name, field, i] < low) low = value[name, field, i]
    if (value[name, field, i] > high) high = value[name, field, i]
  }
  return sprintf("%.1f to %.1f", low, high)
}

END {
  print "\n| contestant | µs per request | rounds | ratio to nginx | p99 ms | requests/s | RSS MB |"
  print "|---|---|---|---|---|---|---|"
  for (i = 1; i <= contestants; i++) {
    name = names[i]
    cost[name] = median(name, 2)
    if (cost[name] > most) most = cost[name]
    for (j = 1; j <= count[name] && count["nginx"]; j++) value[name, 6, j] = value[name, 2, j] / value["nginx", 2, j]
    ratio = count["nginx"] ? sprintf("%.2f", median(name, 6)) : "-"
    printf "| %s | %.1f | %s | %s | %.2f | %.0f | %.0f |\n", titles[name], cost[name], range(name, 2), ratio,
      median(name, 3), median(name, 5), median(name, 4)
  }
  print ""
  for (i = 1; i <= contestants; i++) {
    bar = ""
    for (j = 0; j < cost[names[i]] / most * 40; j++) bar = bar "█"
    printf "%-30s %s %.1f µs\n", titles[names[i]], bar, cost[names[i]]
  }
}

# Counts the lines, and the share of them that is longer than `limit` characters, as JSON.
length($0) > limit { longer++ }
END { printf "{\"lines\": %d, \"longer\": {\"value\": %.4f, \"n\": %d}}\n", NR, longer / NR, NR }

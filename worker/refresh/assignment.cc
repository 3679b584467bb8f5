#include "worker/refresh/assignment.h"

#include <glog/logging.h>

#include <limits>

namespace savior {

// Rows are added one by one; each looks for the cheapest augmenting path under reduced costs
// cost(i, j) - row(i) - column(j) >= 0, which are 0 on what is assigned (Kuhn 1955; Jonker and
// Volgenant 1987). Index 0 of rows and columns stands for "none".
std::vector<size_t> BestAssignment(std::span<const double> value, size_t n) {
  CHECK_EQ(value.size(), n * n);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<double> row(n + 1), column(n + 1);
  std::vector<size_t> row_of(n + 1), from(n + 1);
  for (size_t i = 1; i <= n; ++i) {
    std::vector<double> least(n + 1, kInfinity);
    std::vector<bool> done(n + 1);
    size_t at = 0;
    row_of[0] = i;
    do {
      done[at] = true;
      const size_t r = row_of[at];
      double step = kInfinity;
      size_t next = 0;
      for (size_t j = 1; j <= n; ++j) {
        if (done[j]) continue;
        const double reduced = -value[(r - 1) * n + j - 1] - row[r] - column[j];
        if (reduced < least[j]) {
          least[j] = reduced;
          from[j] = at;
        }
        if (least[j] < step) {
          step = least[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= n; ++j) {
        if (done[j]) {
          row[row_of[j]] += step;
          column[j] -= step;
        } else {
          least[j] -= step;
        }
      }
      at = next;
    } while (row_of[at] != 0);
    while (at != 0) {
      row_of[at] = row_of[from[at]];
      at = from[at];
    }
  }
  std::vector<size_t> assigned(n);
  for (size_t j = 1; j <= n; ++j) assigned[row_of[j] - 1] = j - 1;
  return assigned;
}

}  // namespace savior

// `savior generate` on the command line.
#pragma once

#include "worker/data/generate.h"

namespace CLI {
class App;
}

namespace savior {

void AddGenerate(CLI::App& app, GenerateOptions& options);

}  // namespace savior

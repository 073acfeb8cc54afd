# Interpreter-like user code: the shell itself counts.
i=0
while [ $i -lt 200000 ]; do i=$((i + 1)); done

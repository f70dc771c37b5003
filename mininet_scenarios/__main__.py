from mininet_scenarios.cli import main

main()

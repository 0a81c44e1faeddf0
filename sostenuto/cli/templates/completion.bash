# bash completion of sostenuto, written by `sostenuto completion bash`
_sostenuto() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} flag="" flags="" values=""
    COMPREPLY=()
    # Bash splits --flag=value into three words, unless = was removed from COMP_WORDBREAKS.
    if [[ $current == --*=* ]]; then flag=${current%%=*} current=${current#*=}
    elif [[ $current == "=" ]]; then flag=${COMP_WORDS[COMP_CWORD - 1]} current=""
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then flag=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W '@WORDS@' -- "$current"))
        return
    fi
    case "$command$flag" in
@CASES@
    esac
    if [[ $values == PATH || (-z $flag && $current != -* && $command != completion) ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ -n $flag ]]; then COMPREPLY=($(compgen -W "$values" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
        if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
    fi
}
complete -F _sostenuto sostenuto
